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
    for number, stage in enumerate(spec.stages):
        x = _stage(spec, stage, w, f"stages.{number}", x)
    logits = F.linear(_norm(spec, w, "norm", x), w["embedding" if model.tie_embeddings else "head"])
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def _norm(spec, w, name, x):
    if spec.model.norm_type == "layer":
        return F.layer_norm(x, x.shape[-1:], w[name], w.get(f"{name}_bias"), 1e-5)
    return F.rms_norm(x, x.shape[-1:], w[name], 1e-6)


def _linear(w, name, x):
    return F.linear(x, w[name], w.get(f"{name}_bias"))


def _stage(spec, stage, w, path, x):
    norm, residual = (getattr(stage, key) or getattr(spec.model, key) for key in ("norm", "residual"))
    values, partial, memory, start = [x], [], {}, x
    size = {"sublayers": 1, "blocks": len(stage.step)}.get(getattr(residual, "over", None), 0)
    for n in range(stage.trips):
        at = f"{path}.step" if stage.tied else f"{path}.layers.{n}"
        if stage.inject.name == "add" and n:
            x = x + start
        if stage.step_code.name == "sinusoidal":
            x = x + _code(n, spec.model.width)
        for number, entry in enumerate(stage.step):
            here = f"{at}.{number}"
            if not isinstance(entry, str):
                x = _stage(spec, entry, w, here, x)
                continue
            if residual.name == "mix" and number % residual.period == 0:
                x = _mix(residual, w[f"{here}.mix"], values + partial)
            read = _norm(spec, w, f"{here}.norm", x) if norm.name != "post" else x
            y = BLOCKS[spec.blocks[entry].type](spec.blocks[entry], w, f"{here}.{entry}", read, memory, n)
            y = _norm(spec, w, f"{here}.out_norm", y) if norm.name == "sandwich" else y
            x = _norm(spec, w, f"{here}.norm", x + y) if norm.name == "post" else x + y
            if residual.name == "mix":
                partial = [x if residual.of == "states" else sum(partial) + y]
                if (number + 1) % size == 0:
                    values, partial = values + partial, []
    return _mix(residual, w[f"{path}.mix"], values) if residual.name == "mix" else x


def _mix(residual, weight, values):
    stacked = torch.stack(values)
    if residual.mix == "static":
        return (weight[: len(values)].flip(0)[:, :, None, None] * stacked).sum(0)
    scores = F.rms_norm(stacked, stacked.shape[-1:], weight, 1e-6).sum(-1, keepdim=True)
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
    size = x.shape[-1] // config.heads
    q, k, v = (_linear(w, f"{at}.{role}", x).unflatten(-1, (-1, size)) for role in ("query", "key", "value"))
    if config.rope:
        positions = torch.arange(x.shape[1], dtype=x.dtype)
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
