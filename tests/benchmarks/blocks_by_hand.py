"""Blocks of the family as one would write them by hand: plain PyTorch on batches.

`x` is [batch, sequence, width]; where attention or experts read several values it is a tuple of them.
`memory` holds what a stage keeps of its steps.
"""

import math

import torch
import torch.nn.functional as F


def linear(w, name, x):
    return F.linear(x, w[name], w.get(f"{name}_bias"))


def turned(x, positions, fraction=1):
    """Rotate the pairs (2i, 2i + 1) of x [batch, sequence, heads, size].

    Positions are [sequence], [batch, sequence] or [1].
    """
    if fraction < 1:
        x, rest = x.split([int(x.shape[-1] * fraction), x.shape[-1] - int(x.shape[-1] * fraction)], -1)
        return torch.cat([turned(x, positions), rest], -1)
    size = x.shape[-1]
    angles = positions[..., None, None] * 10000.0 ** (-torch.arange(0, size, 2) / size)
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(-2)


def _attention(config, w, at, x, memory, n):
    if "first" in memory:
        return _attention_to_first(config, w, at, x, memory)
    views = x if isinstance(x, tuple) else (x, x, x)
    size, roles = views[0].shape[-1] // config.heads, ("query", "key", "value")
    q, k, v = (
        linear(w, f"{at}.{role}", each).unflatten(-1, (-1, size))
        for role, each in zip(roles, views, strict=True)
    )
    if config.qk_norm:
        q, k = (
            F.rms_norm(each, (size,), w[f"{at}.{role}_norm"], 1e-6)
            for each, role in ((q, "query"), (k, "key"))
        )
    if config.rope:
        positions = memory.get("places", torch.arange(q.shape[1], dtype=q.dtype))
        q, k = turned(q, positions, config.rope_fraction), turned(k, positions, config.rope_fraction)
    memory[at.rpartition(".")[-1], "read"] = k, v
    if config.steps == "all":
        past = memory.setdefault(at, [])
        past.append((k, v))
        k, v = (torch.cat(each, 1) for each in zip(*past, strict=True))
    q, k, v = (each.transpose(1, 2) for each in (q, k, v))
    grouped = k.shape[1] != q.shape[1]
    if config.depth == "joint":
        y = _joint(q, k, v, memory.setdefault((at.rpartition(".")[-1], "depth"), []))
    elif config.soft_cap:
        k, v = (each.repeat_interleave(q.shape[1] // each.shape[1], 1) for each in (k, v))
        scores = config.soft_cap * torch.tanh(q @ k.mT * size**-0.5 / config.soft_cap)
        seen = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
        seen = seen.triu(1 - config.window) if config.window else seen
        y = scores.masked_fill(~seen, -math.inf).softmax(-1) @ v
    elif config.steps == "all":
        mask = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool).tril().repeat(1, len(past))
        y = F.scaled_dot_product_attention(q, k, v, mask, enable_gqa=grouped)
    else:
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
    return linear(w, f"{at}.out", y.transpose(1, 2).flatten(2))


def _attention_to_first(config, w, at, x, memory):
    """Attention of some of the tokens to the keys and values that all had at the first step."""
    places, size = memory["places"], x.shape[-1] // config.heads

    def heads(role):
        return linear(w, f"{at}.{role}", x).unflatten(-1, (-1, size))

    q, mask = turned(heads("query"), places).transpose(1, 2), None
    if at in memory["first"]:
        k, v = memory["first"][at]
        mask = (torch.arange(k.shape[2]) <= places[..., None]).unsqueeze(1)
    else:
        k, v = turned(heads("key"), places).transpose(1, 2), heads("value").transpose(1, 2)
        memory["first"][at] = k, v
    y = F.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None, enable_gqa=True)
    return linear(w, f"{at}.out", y.transpose(1, 2).flatten(2))


def _joint(q, k, v, past):
    """One softmax over the tokens and over what the same token kept before.

    Queries, keys and values, also those in the list `past`, are [batch, heads, sequence, size].
    """
    shared, length = q.shape[1] // k.shape[1], q.shape[2]
    keys, values = (each.repeat_interleave(shared, 1) for each in (k, v))
    seen = torch.ones(length, length, dtype=torch.bool).tril()
    scores = (q @ keys.mT).masked_fill(~seen, -math.inf)
    if past:
        earlier, theirs = (
            torch.stack(each, 3).repeat_interleave(shared, 1) for each in zip(*past, strict=True)
        )
        scores = torch.cat([scores, torch.einsum("bhsd,bhsnd->bhsn", q, earlier)], -1)
    shares = (scores * q.shape[-1] ** -0.5).softmax(-1)
    y = shares[..., :length] @ values
    if past:
        y = y + torch.einsum("bhsn,bhsnd->bhsd", shares[..., length:], theirs)
    past.append((k, v))
    return y


def _depth(config, w, at, x, memory, n):
    """Attention of each token over its own keys and values of this and earlier steps, kept in a list."""
    size = x.shape[-1] // config.heads
    q = linear(w, f"{at}.query", x).unflatten(-1, (-1, size))
    if config.kv_from:
        k, v = memory[config.kv_from, "read"]
        q = turned(q, torch.arange(x.shape[1], dtype=x.dtype))
    else:
        k, v = (linear(w, f"{at}.{role}", x).unflatten(-1, (-1, size)) for role in ("key", "value"))
    if config.rotary:
        step = torch.tensor([float(n)])
        q, k = turned(q, step), turned(k, step)
    past = memory.setdefault(at.rpartition(".")[-1], [])
    past.append((k, v))
    past = past[-(config.window or len(past)) :]
    keys, values = (
        torch.stack(each, 2).repeat_interleave(q.shape[2] // k.shape[2], 3)
        for each in zip(*past, strict=True)
    )
    scores = torch.einsum("bshd,bsnhd->bsnh", q, keys) * size**-0.5
    if config.bias == "distance":
        distance = torch.arange(len(past)).flip(0)[:, None]
        scores = scores - w[f"{at}.distance_bias"] * distance
    return linear(w, f"{at}.out", torch.einsum("bsnh,bsnhd->bshd", scores.softmax(2), values).flatten(2))


def _experts(config, w, at, x, memory, n):
    """A query chooses experts, which read another value where x is a tuple; a loop over the experts."""
    scored, x = x if isinstance(x, tuple) else (x, x)
    flat, query = x.flatten(0, 1), scored.flatten(0, 1)
    if config.depth_code == "rotary":
        query = turned(query[None, :, None], torch.tensor([float(n)]))[0, :, 0]
    if config.routing == "expert_choice":
        return _choosing_experts(config, w, at, x, scored)
    logits = F.linear(query, w[f"{at}.keys"]) / math.sqrt(x.shape[-1])
    chosen = (logits + w[f"{at}.balance"]).topk(config.active, -1).indices
    given = (logits.softmax(-1) if config.scores == "softmax" else logits.sigmoid()).gather(1, chosen)
    given = given / given.sum(-1, keepdim=True) if config.renormalize else given
    y = torch.zeros_like(flat)
    for expert in range(config.experts):
        token, place = (chosen == expert).nonzero(as_tuple=True)
        if config.activation == "relu":
            hidden = (flat[token] @ w[f"{at}.up"][expert]).relu()
        else:
            gate, up = (flat[token] @ w[f"{at}.gate_up"][expert]).chunk(2, -1)
            hidden = F.silu(gate) * up
        y = y.index_add(0, token, given[token, place, None] * (hidden @ w[f"{at}.down"][expert]))
    y = y.view_as(x)
    if config.shared:
        hidden = F.silu(linear(w, f"{at}.shared_gate", x)) * linear(w, f"{at}.shared_up", x)
        y = y + linear(w, f"{at}.shared_down", hidden)
    return y


def _choosing_experts(config, w, at, x, query):
    """Each expert takes the tokens of a sequence that it scores highest; all experts run in one product."""
    batch, length, width = x.shape
    scores = (F.linear(query, w[f"{at}.keys"]) / math.sqrt(width)).softmax(-1)
    given, tokens = scores.mT.topk(math.ceil(length * config.active / config.experts), -1)
    places = tokens.flatten(1).unsqueeze(-1).expand(-1, -1, width)
    taken = x.gather(1, places).view(batch, config.experts, -1, width)
    gate, up = torch.einsum("becd,edh->bech", taken, w[f"{at}.gate_up"]).chunk(2, -1)
    y = torch.einsum("bech,ehd->becd", F.silu(gate) * up, w[f"{at}.down"]) * given.unsqueeze(-1)
    return torch.zeros_like(x).scatter_add(1, places, y.flatten(1, 2))


def _feed_forward(config, w, at, x, memory, n):
    if f"{at}.key" in w:
        size = memory[config.kv_for, "read"][0].shape[-1]
        k, v = (linear(w, f"{at}.{role}", x).unflatten(-1, (-1, size)) for role in ("key", "value"))
        k = turned(k, torch.arange(x.shape[1], dtype=x.dtype))
        memory[config.kv_for, "depth"].append((k.transpose(1, 2), v.transpose(1, 2)))
    up = linear(w, f"{at}.up", x)
    match config.activation:
        case "swiglu":
            up = F.silu(linear(w, f"{at}.gate", x)) * up
        case "gelu":
            up = F.gelu(up)
        case "gelu_tanh":
            up = F.gelu(up, approximate="tanh")
        case "geglu":
            up = F.gelu(linear(w, f"{at}.gate", x)) * up
        case "relu2":
            up = up.relu().square()
        case "relu":
            up = up.relu()
    return linear(w, f"{at}.down", up)


BLOCKS = {
    "sequence_attention": _attention,
    "depth_attention": _depth,
    "expert_attention": _experts,
    "feed_forward": _feed_forward,
}
