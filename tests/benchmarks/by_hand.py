"""Models of the family as one would write them by hand: plain PyTorch on batches, no compiler, no kernels.

They share nothing with the code under test but the names of weights. `loss` is the cross-entropy of the last
step; options that no spec of SPECS has are not written here.
"""

import math

import torch
import torch.nn.functional as F

SPECS = {
    "gpt2": ["model.dropout=0"],
    "llama": [],
    "denseformer": [],
    "muddformer": [],
    "deepcrossattention": [],
    "attention-residuals": [],
    "universal-transformer": [],
    "late-recurrence": ["stages.1.recur=4"],
    "ouro": ["model.loss=last", "stages.0.exit=none"],
    "dreamer-sequential": [],
}
"""The specs that are written here, with what is left out of each."""


def loss(spec, w, tokens, targets):
    model = spec.model
    x = F.embedding(tokens, w["embedding"])
    x = x * (math.sqrt(model.width) if model.embedding_scale == "sqrt_width" else model.embedding_scale)
    if model.positions == "learned":
        x = x + w["positions"][: tokens.shape[1]]
    ponder = []
    for number, stage in enumerate(spec.stages):
        x = _stage(spec, stage, w, f"stages.{number}", x, ponder)
    logits = F.linear(_norm(spec, w, "norm", x), w["embedding" if model.tie_embeddings else "head"])
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten()) + sum(ponder)


def _norm(spec, w, name, x):
    if spec.model.norm_type == "layer":
        return F.layer_norm(x, x.shape[-1:], w[name], w.get(f"{name}_bias"), 1e-5)
    return F.rms_norm(x, x.shape[-1:], w[name], 1e-6)


def _linear(w, name, x):
    return F.linear(x, w[name], w.get(f"{name}_bias"))


def _stage(spec, stage, w, path, x, ponder):
    norm, residual = (getattr(stage, key) or getattr(spec.model, key) for key in ("norm", "residual"))
    values, partial, memory, start = [x], [], {}, x
    over = getattr(residual, "over", None)
    size = {"sublayers": 1, "blocks": len(stage.step)}.get(over, over)
    halting = _Halting(x, stage.halt) if stage.halt.name == "act" else None
    for n in range(stage.trips):
        at = f"{path}.step" if stage.tied else f"{path}.layers.{n}"
        if stage.inject.name == "add" and n:
            x = x + start
        if stage.step_code.name == "sinusoidal":
            x = x + _code(n, spec.model.width)
        share = halting and halting.share(F.linear(x, w[f"{at}.halt"], w[f"{at}.halt_bias"]).sigmoid())
        for number, entry in enumerate(stage.step):
            here = f"{at}.{number}"
            if not isinstance(entry, str):
                x = _stage(spec, entry, w, here, x, ponder)
                continue
            read = x
            if residual.name == "mix" and number % residual.period == 0:
                x, read = _read(spec.blocks[entry].type, residual, w, here, values + partial)
            if isinstance(read, tuple):
                read = tuple(
                    _norm(spec, w, f"{here}.norm{view}", each)
                    for view, each in zip(("", "_k", "_v"), read, strict=True)
                )
            elif norm.name != "post":
                read = _norm(spec, w, f"{here}.norm", read)
            y = BLOCKS[spec.blocks[entry].type](spec.blocks[entry], w, f"{here}.{entry}", read, memory, n)
            y = _norm(spec, w, f"{here}.out_norm", y) if norm.name == "sandwich" else y
            x = _norm(spec, w, f"{here}.norm", x + y) if norm.name == "post" else x + y
            if residual.name == "mix":
                partial = [x if residual.of == "states" else sum(partial) + y]
                if (number + 1) % size == 0:
                    values, partial = values + partial, []
        if halting:
            halting.state = share * x + (1 - share) * halting.state
    if halting:
        ponder.append(stage.halt.act * (halting.updates + halting.remainders).mean())
        return halting.state
    return _mixes(residual, w, path, ["mix"], values)[0] if residual.name == "mix" else x


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


def _turned(x, positions):
    """Rotate the pairs (2i, 2i + 1) of x [batch, sequence, heads, size] by positions [sequence] or [1]."""
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
        q, k = _turned(q, positions), _turned(k, positions)
    q, k, v = (each.transpose(1, 2) for each in (q, k, v))
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=k.shape[1] != q.shape[1])
    return _linear(w, f"{at}.out", y.transpose(1, 2).flatten(2))


def _depth(config, w, at, x, memory, n):
    """Attention of each token over its own keys and values of this and earlier steps, kept in a list."""
    size = x.shape[-1] // config.heads
    q, k, v = (_linear(w, f"{at}.{role}", x).unflatten(-1, (-1, size)) for role in ("query", "key", "value"))
    step = torch.tensor([float(n)])
    q, k = _turned(q, step), _turned(k, step)
    past = memory.setdefault(at, [])
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
