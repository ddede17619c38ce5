"""Models of the family as one would write them by hand: plain PyTorch on batches, no compiler, no kernels.

They share nothing with the code under test but the names of weights. `loss` is the cross-entropy of the last
step; options that no spec of SPECS has are not written here.
"""

import math

import torch
import torch.nn.functional as F
from streams_by_hand import Connection, closed, opened

SPECS = {
    "gpt2": ["model.dropout=0"],
    "llama": [],
    "denseformer": [],
    "muddformer": [],
    "deepcrossattention": [],
    "attention-residuals": [],
    "attention-residuals-blocks": [],
    "hyper-connections": [],
    "mhc": [],
    "hyperloop": [],
    "universal-transformer": [],
    "late-recurrence": ["stages.1.recur=4"],
    "ouro": ["model.loss=last", "stages.0.exit=none"],
    "dreamer-sequential": [],
    "dreamer-parallel": [],
    "dreamer-all-parallel": [],
    "neox": [],
    "relaxed-recursion": [],
    "cotformer": [],
    "lumia-depth-attention": [],
}
"""The specs that are written here, with what is left out of each."""


def loss(spec, w, tokens, targets):
    model = spec.model
    x = F.embedding(tokens, w["embedding"])
    x = x * (math.sqrt(model.width) if model.embedding_scale == "sqrt_width" else model.embedding_scale)
    if model.positions == "learned":
        x = x + w["positions"][: tokens.shape[1]]
    ponder, spanning = [], model.residual.name == "streams"
    x = opened(x, model.residual.streams) if spanning else x
    for number, stage in enumerate(spec.stages):
        x = _stage(spec, stage, w, f"stages.{number}", x, ponder)
    x = closed(x) if spanning else x
    logits = F.linear(_norm(spec, w, "norm", x), w["embedding" if model.tie_embeddings else "head"])
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten()) + sum(ponder)


def _norm(spec, w, name, x):
    if spec.model.norm_type == "layer":
        return F.layer_norm(x, x.shape[-1:], w[name], w.get(f"{name}_bias"), 1e-5)
    return F.rms_norm(x, x.shape[-1:], w[name], 1e-6)


def _linear(w, name, x):
    return F.linear(x, w[name], w.get(f"{name}_bias"))


def _stage(spec, stage, all_weights, path, x, ponder):
    norm, residual = (getattr(stage, key) or getattr(spec.model, key) for key in ("norm", "residual"))
    values, partial, memory, start = [x], [], {}, x
    over = getattr(residual, "over", None)
    size = {"sublayers": 1, "blocks": len(stage.step)}.get(over, over)
    streams = residual if residual.name == "streams" else None
    opens = streams and streams.per == "step"
    x = opened(x, streams.streams) if opens else x
    halting = _Halting(x, stage.halt) if stage.halt.name == "act" else None
    for n in range(stage.trips):
        at = f"{path}.step" if stage.tied else f"{path}.layers.{n}"
        whole = Connection(streams, all_weights, at, x) if opens else None
        x = whole.input() if whole else x
        w = _of_step(all_weights, at, stage.per_step, n)
        if stage.inject.name == "add" and n:
            x = x + start
        if stage.step_code.name == "sinusoidal":
            x = x + _code(n, spec.model.width)
        if stage.step_code.name == "embedding":
            x = x + w[f"{at}.step_code"][n]
        share = halting and halting.share(F.linear(x, w[f"{at}.halt"], w[f"{at}.halt_bias"]).sigmoid())
        for number, entry in enumerate(stage.step):
            here = f"{at}.{number}"
            if hasattr(entry, "step"):
                x = _stage(spec, entry, w, here, x, ponder)
                continue
            apart = Connection(streams, w, here, x) if streams and not opens else None
            read = apart.input() if apart else x
            if residual.name == "mix" and number % residual.period == 0:
                x, read = _read(spec.blocks[entry].type, residual, w, here, values + partial)
            if isinstance(read, tuple):
                read = tuple(
                    _norm(spec, w, f"{here}.norm{view}", each)
                    for view, each in zip(("", "_k", "_v"), read, strict=True)
                )
            elif norm.name != "post":
                read = _norm(spec, w, f"{here}.norm", read)
            blocks = {f"{i}.{name}": name for i, name in enumerate(getattr(entry, "parallel", ()))} or {
                entry: entry
            }
            y = sum(
                BLOCKS[spec.blocks[name].type](spec.blocks[name], w, f"{here}.{place}", read, memory, n)
                for place, name in blocks.items()
            )
            y = _norm(spec, w, f"{here}.out_norm", y) if norm.name == "sandwich" else y
            x = apart.output(y) if apart else x + y
            x = _norm(spec, w, f"{here}.norm", x) if norm.name == "post" else x
            if residual.name == "mix":
                partial = [x if residual.of == "states" else sum(partial) + y]
                if (number + 1) % size == 0:
                    values, partial = values + partial, []
        x = whole.output(x) if whole else x
        if halting:
            halting.state = share * x + (1 - share) * halting.state
    if halting:
        ponder.append(stage.halt.act * (halting.updates + halting.remainders).mean())
        return halting.state
    x = closed(x) if opens else x
    return _mixes(residual, all_weights, path, ["mix"], values)[0] if residual.name == "mix" else x


def _of_step(w, at, own, n):
    """Return the weights as they are at a step that has gains of its own and adds products of a low rank."""
    if own.name == "none":
        return w
    found = dict(w)
    for name, each in w.items():
        if name.startswith(at) and name.endswith("norm"):
            found[name] = each[n]
        elif name.startswith(at) and f"{name}_lora_a" in w:
            a, b = w[f"{name}_lora_a"], w[f"{name}_lora_b"]
            found[name] = each + b.view(-1, len(each), own.lora)[n] @ a.view(-1, own.lora, a.shape[-1])[n]
    return found


class _Halting:
    """Adaptive computation time of all tokens."""

    def __init__(self, x, halt):
        self.state, self.threshold = torch.zeros_like(x), halt.threshold
        self.halted = self.remainders = self.updates = x.new_zeros(*x.shape[:-1], 1)

    def share(self, p):
        """Return how much of a token's next state is taken, where it stops with probability p."""
        runs = self.halted < 1
        stops = runs & (self.halted + p > self.threshold)
        rest = 1 - self.halted
        self.remainders = torch.where(stops, rest, self.remainders)
        self.updates = self.updates + runs
        self.halted = torch.where(stops, 1.0, self.halted + p * runs)
        return torch.where(stops, rest, p * runs)


def _read(kind, residual, w, at, values):
    """Return the state, and what a block reads, for queries, keys and values if these are mixed apart."""
    if not residual.views or kind != "sequence_attention":
        (x,) = _mixes(residual, w, at, ["mix"], values)
        return x, x
    if "q" not in residual.views:
        q, k, v = _mixes(residual, w, at, ["mix", "mix_k", "mix_v"], values)
        return q, (q, k, v)
    *views, x = _mixes(residual, w, at, ["mix_q", "mix_k", "mix_v", "mix_residual"], values)
    return x, tuple(views)


def _mixes(residual, w, at, names, values):
    stacked, count = torch.stack(values), len(values)
    size = stacked.shape[-1:]
    if residual.mix == "token":
        hidden = F.gelu(F.linear(F.rms_norm(values[-1], size, None, 1e-6), w[f"{at}.mix_up"]))
        shares = [F.linear(hidden, w[f"{at}.{name}_down"]) + w[f"{at}.{name}"][:, 0] for name in names]
        return [torch.einsum("nbsd,bsn->bsd", stacked, each[..., :count].flip(-1)) for each in shares]
    return [_mix(residual, w, f"{at}.{name}", stacked, size) for name in names]


def _mix(residual, w, name, stacked, size):
    if residual.mix == "static":
        return (w[name][: len(stacked)].flip(0)[:, :, None, None] * stacked).sum(0)
    query = w[f"{name}_query"] if residual.mix == "relu_query" else w[name]
    scores = F.rms_norm(stacked, size, query, 1e-6).sum(-1, keepdim=True)
    if residual.mix == "relu_query":
        return ((scores.clamp(min=0) + w[name][: len(stacked)].flip(0)[:, None, None]) * stacked).sum(0)
    return (scores.softmax(0) * stacked).sum(0)


def _code(n, width):
    angles = (n + 1) / 10000 ** (torch.arange(0, width, 2) / width)
    return torch.stack([angles.sin(), angles.cos()], -1).flatten()


def _turned(x, positions, fraction=1):
    """Rotate the pairs (2i, 2i + 1) of x [batch, sequence, heads, size] by positions [sequence] or [1]."""
    if fraction < 1:
        x, rest = x.split([int(x.shape[-1] * fraction), x.shape[-1] - int(x.shape[-1] * fraction)], -1)
        return torch.cat([_turned(x, positions), rest], -1)
    size = x.shape[-1]
    angles = positions[:, None, None] * 10000.0 ** (-torch.arange(0, size, 2) / size)
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(-2)


def _attention(config, w, at, x, memory, n):
    views = x if isinstance(x, tuple) else (x, x, x)
    size, roles = views[0].shape[-1] // config.heads, ("query", "key", "value")
    q, k, v = (
        _linear(w, f"{at}.{role}", each).unflatten(-1, (-1, size))
        for role, each in zip(roles, views, strict=True)
    )
    if config.rope:
        positions = torch.arange(q.shape[1], dtype=q.dtype)
        q, k = _turned(q, positions, config.rope_fraction), _turned(k, positions, config.rope_fraction)
    memory[at.rpartition(".")[-1], "read"] = k, v
    if config.steps == "all":
        past = memory.setdefault(at, [])
        past.append((k, v))
        k, v = (torch.cat(each, 1) for each in zip(*past, strict=True))
    q, k, v = (each.transpose(1, 2) for each in (q, k, v))
    grouped = k.shape[1] != q.shape[1]
    if config.steps == "all":
        mask = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool).tril().repeat(1, len(past))
        y = F.scaled_dot_product_attention(q, k, v, mask, enable_gqa=grouped)
    else:
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
    return _linear(w, f"{at}.out", y.transpose(1, 2).flatten(2))


def _depth(config, w, at, x, memory, n):
    """Attention of each token over its own keys and values of this and earlier steps, kept in a list."""
    size = x.shape[-1] // config.heads
    q = _linear(w, f"{at}.query", x).unflatten(-1, (-1, size))
    if config.kv_from:
        k, v = memory[config.kv_from, "read"]
        q = _turned(q, torch.arange(x.shape[1], dtype=x.dtype))
    else:
        k, v = (_linear(w, f"{at}.{role}", x).unflatten(-1, (-1, size)) for role in ("key", "value"))
        step = torch.tensor([float(n)])
        q, k = _turned(q, step), _turned(k, step)
    past = memory.setdefault(at.rpartition(".")[-1], [])
    past.append((k, v))
    keys, values = (
        torch.stack(each, 2).repeat_interleave(q.shape[2] // k.shape[2], 3)
        for each in zip(*past, strict=True)
    )
    scores = torch.einsum("bshd,bsnhd->bsnh", q, keys) * size**-0.5
    return _linear(w, f"{at}.out", torch.einsum("bsnh,bsnhd->bshd", scores.softmax(2), values).flatten(2))


def _experts(config, w, at, x, memory, n):
    """Sigmoid scores of a query that is turned by the step; a loop over the experts."""
    flat = x.flatten(0, 1)
    query = _turned(flat[None, :, None], torch.tensor([float(n)]))[0, :, 0]
    logits = F.linear(query, w[f"{at}.keys"]) / math.sqrt(x.shape[-1])
    chosen = (logits + w[f"{at}.balance"]).topk(config.active, -1).indices
    given = logits.sigmoid().gather(1, chosen)
    given = given / given.sum(-1, keepdim=True)
    y = torch.zeros_like(flat)
    for expert in range(config.experts):
        token, place = (chosen == expert).nonzero(as_tuple=True)
        gate, up = (flat[token] @ w[f"{at}.gate_up"][expert]).chunk(2, -1)
        out = (F.silu(gate) * up) @ w[f"{at}.down"][expert]
        y = y.index_add(0, token, given[token, place, None] * out)
    return y.view_as(x)


def _feed_forward(config, w, at, x, memory, n):
    up = _linear(w, f"{at}.up", x)
    match config.activation:
        case "swiglu":
            up = F.silu(_linear(w, f"{at}.gate", x)) * up
        case "gelu":
            up = F.gelu(up)
        case "gelu_tanh":
            up = F.gelu(up, approximate="tanh")
        case "relu":
            up = up.relu()
    return _linear(w, f"{at}.down", up)


BLOCKS = {
    "sequence_attention": _attention,
    "depth_attention": _depth,
    "expert_attention": _experts,
    "feed_forward": _feed_forward,
}
