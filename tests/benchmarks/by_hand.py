"""Models of the family as one would write them by hand: plain PyTorch on batches, no compiler, no kernels.

They share nothing with the code under test but the names of weights. `loss` is the cross-entropy of the last
step, plus the losses of routers, of halting and of a second pass; options that no spec of SPECS has are not
written here.
"""

import math

import torch
import torch.nn.functional as F
from blocks_by_hand import BLOCKS, linear
from compact_by_hand import COMPACT_BLOCKS
from routes_by_hand import routing
from streams_by_hand import Connection, closed, opened

_BLOCKS = BLOCKS | COMPACT_BLOCKS
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
    "loopformer": [],
    "mixture-of-recursions": [],
    "mixture-of-recursions-token": [],
    "moda": [],
    "lumia-depth-attention": [],
    "recurtrace": [],
    "local-global": [],
    "huginn": ["stages.1.recur=4", "stages.1.start=zeros", "stages.1.backprop=all"],
    "parcae": ["stages.1.recur=4", "stages.1.start=zeros", "stages.1.backprop=all"],
    "moeut": ["blocks.moe.balance_loss=0"],
    "deepseek-like": ["blocks.moe.balance_loss=0"],
    "expert-choice": [],
    "sparse-looped": ["blocks.moe.balance_loss=0", "blocks.moe.z_loss=0"],
    "mla": [],
    "hybrid": [],
    "hybrid, 192 tokens": ["model.context=192", "train.data.length=192"],
    "recurrent-hybrid": [],
    "peer": [],
}
"""The specs that are written here, with what is left out or changed of each."""


def loss(spec, w, tokens, targets):
    losses = []
    state = _state(spec, spec.stages, w, tokens, losses)
    long, option = _cross_entropy(spec, w, state, targets), spec.model.loss
    if option.name != "consistency":
        return long + sum(losses)
    stages = [
        stage.model_copy(update={"recur": option.short}) if stage.tied else stage for stage in spec.stages
    ]
    near = _state(spec, stages, w, tokens, losses)
    short, far = _cross_entropy(spec, w, near, targets), F.mse_loss(near, state.detach())
    return long + option.weight * short + option.consistency * far


def _cross_entropy(spec, w, state, targets):
    logits = F.linear(state, w["embedding" if spec.model.tie_embeddings else "head"])
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def _state(spec, stages, w, tokens, losses):
    """Return the state after all stages and the last norm; add what is lost within them to a list."""
    model = spec.model
    x = F.embedding(tokens, w["embedding"])
    x = x * (math.sqrt(model.width) if model.embedding_scale == "sqrt_width" else model.embedding_scale)
    if model.positions == "learned":
        x = x + w["positions"][: tokens.shape[1]]
    spanning = model.residual.name == "streams"
    x = opened(x, model.residual.streams) if spanning else x
    for number, stage in enumerate(stages):
        x = _stage(spec, stage, w, f"stages.{number}", x, losses)
    return _norm(spec, w, "norm", closed(x) if spanning else x)


def _norm(spec, w, name, x):
    if spec.model.norm_type == "layer":
        return F.layer_norm(x, x.shape[-1:], w[name], w.get(f"{name}_bias"), 1e-5)
    return F.rms_norm(x, x.shape[-1:], w[name], 1e-6)


def _stage(spec, stage, all_weights, path, x, losses):
    norm, residual = (getattr(stage, key) or getattr(spec.model, key) for key in ("norm", "residual"))
    values, partial, memory, start = [x], [], {}, x
    over = getattr(residual, "over", None)
    size = {"sublayers": 1, "blocks": len(stage.step)}.get(over, over)
    streams = residual if residual.name == "streams" else None
    opens = streams and streams.per == "step"
    x = opened(x, streams.streams) if opens else x
    x = torch.zeros_like(x) if stage.start.name == "zeros" else x
    halting = _Halting(x, stage.halt) if stage.halt.name == "act" else None
    routes = routing(stage, all_weights, path, losses)
    if routes and stage.route.kv == "first":
        memory["first"] = {}
    for n in range(stage.trips):
        at = f"{path}.step" if stage.tied else f"{path}.layers.{n}"
        whole = Connection(streams, all_weights, at, x) if opens else None
        x = whole.input() if whole else x
        if routes:
            everyone, (x, memory["places"]) = x, routes.take(x, n)
        w = _of_step(all_weights, at, stage.per_step, n)
        x = _injected(stage.inject, w, path, at, x, start, n)
        if stage.step_code.name == "sinusoidal":
            x = x + _code(n, spec.model.width)
        if stage.step_code.name == "embedding":
            x = x + w[f"{at}.step_code"][n]
        code = _modulation(stage, w, at, n) if stage.step_code.name == "modulation" else None
        share = halting and halting.share(F.linear(x, w[f"{at}.halt"], w[f"{at}.halt_bias"]).sigmoid())
        for number, entry in enumerate(stage.step):
            here = f"{at}.{number}"
            if hasattr(entry, "step"):
                x = _stage(spec, entry, w, here, x, losses)
                continue
            if n not in range(stage.trips)[_slice(getattr(entry, "at", None))]:
                continue
            name = getattr(entry, "use", entry)
            apart = Connection(streams, w, here, x) if streams and not opens else None
            read = apart.input() if apart else x
            if residual.name == "mix" and number % residual.period == 0:
                x, read = _read(spec.blocks[entry].type, residual, w, here, values + partial)
            if isinstance(read, tuple):
                read = tuple(
                    _norm(spec, w, f"{here}.norm{view}", each)
                    for view, each in zip(("", "_k", "_v"), read, strict=True)
                )
            elif norm.name == "scores":
                normed = _norm(spec, w, f"{here}.norm", x)
                attends = spec.blocks[name].type == "sequence_attention"
                read = (normed, normed, x) if attends else (normed, x)
            elif norm.name != "post":
                read = _norm(spec, w, f"{here}.norm", read)
            read = read if code is None else read * linear(w, f"{here}.norm_modulation", code)
            parallel = {f"{i}.{each}": each for i, each in enumerate(getattr(entry, "parallel", ()))}
            blocks = parallel or {name: name}
            y = sum(
                _BLOCKS[spec.blocks[name].type](spec.blocks[name], w, f"{here}.{place}", read, memory, n)
                for place, name in blocks.items()
            )
            y = y if code is None else y * linear(w, f"{here}.update_modulation", code)
            y = _norm(spec, w, f"{here}.out_norm", y) if norm.name == "sandwich" else y
            if getattr(getattr(entry, "residual", None), "name", "") == "gate":
                y = w[f"{here}.residual_gate"] * F.linear(x, w[f"{here}.residual_token_gate"]).sigmoid() * y
            x = apart.output(y) if apart else x + y
            x = _norm(spec, w, f"{here}.norm", x) if norm.name == "post" else x
            if residual.name == "mix":
                partial = [x if residual.of == "states" else sum(partial) + y]
                if (number + 1) % size == 0:
                    values, partial = values + partial, []
        x = routes.put(everyone, x) if routes else x
        x = whole.output(x) if whole else x
        if halting:
            halting.state = share * x + (1 - share) * halting.state
    if halting:
        losses.append(stage.halt.act * (halting.updates + halting.remainders).mean())
        return halting.state
    x = closed(x) if opens else x
    return _mixes(residual, all_weights, path, ["mix"], values)[0] if residual.name == "mix" else x


def _slice(at):
    return slice(*(int(each) if each else None for each in (at or ":").split(":")))


def _injected(inject, w, path, at, x, start, n):
    match inject.name:
        case "add" if n:
            return x + start
        case "concat":
            return F.linear(torch.cat([x, start], -1), w[f"{at}.inject"])
        case "diagonal":
            delta = F.softplus(w[f"{at}.inject_delta"])
            entry = F.rms_norm(start, start.shape[-1:], w[f"{path}.inject_norm"], 1e-6)
            entry = F.linear(entry, w[f"{path}.inject_input"])
            return torch.exp(-delta * w[f"{at}.inject_decay"].exp()) * x + delta * entry
    return x


def _of_step(w, at, own, n):
    """Return the weights as they are at a step that has gains of its own and adds products of a low rank."""
    if own.name == "none":
        return w
    by_name = dict(w)
    for name, each in w.items():
        if name.startswith(at) and name.endswith("norm"):
            by_name[name] = each[n]
        elif name.startswith(at) and f"{name}_lora_a" in w:
            a, b = w[f"{name}_lora_a"], w[f"{name}_lora_b"]
            by_name[name] = each + b.view(-1, len(each), own.lora)[n] @ a.view(-1, own.lora, a.shape[-1])[n]
    return by_name


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


def _modulation(stage, w, at, n):
    """Return the code of time and step size that scales norms and updates, activated."""
    code, half = 0, stage.step_code.modulation // 2
    for name, value in (("t", n / stage.trips), ("dt", 1 / stage.trips)):
        angles = value * 10000.0 ** (-torch.arange(half) / half)
        hidden = linear(w, f"{at}.step_code_{name}_in", torch.cat([angles.cos(), angles.sin()]))
        code = code + linear(w, f"{at}.step_code_{name}_out", F.silu(hidden))
    return F.silu(code)
