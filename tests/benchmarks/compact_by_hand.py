"""Latent attention, the gated delta rule and product-key experts as one would write them by hand.

`x` is [batch, sequence, width].
"""

import torch
import torch.nn.functional as F
from blocks_by_hand import linear, turned

CHUNK = 64
"""Tokens of a chunk of the delta rule: 64, as in public implementations."""


def _latent_attention(config, w, at, x, memory, n):
    """Keys and values of all heads are made of one vector of each token (DeepSeek-V2)."""
    heads, size, rotated = config.geometry(x.shape[-1])
    positions = torch.arange(x.shape[1], dtype=x.dtype)
    latent = _norm(w, f"{at}.latent_norm", linear(w, f"{at}.latent", x))
    shared = turned(linear(w, f"{at}.rope_key", x).unsqueeze(2), positions)
    q = turned(linear(w, f"{at}.query", x).unflatten(-1, (heads, size)), positions, rotated / size)
    own = linear(w, f"{at}.up_key", latent).unflatten(-1, (heads, size - rotated))
    k = torch.cat([shared.expand(-1, -1, heads, -1), own], -1)
    v = linear(w, f"{at}.up_value", latent).unflatten(-1, (heads, size))
    y = F.scaled_dot_product_attention(*(each.transpose(1, 2) for each in (q, k, v)), is_causal=True)
    return linear(w, f"{at}.out", y.transpose(1, 2).flatten(2))


def _gated_delta(config, w, at, x, memory, n):
    """Linear attention whose state forgets and corrects itself, by chunks that autograd goes through."""
    heads, keys, values = config.geometry(x.shape[-1])
    q, k, v = (
        _convolved(linear(w, f"{at}.{role}", x), w[f"{at}.{role}_convolution"])
        .unflatten(-1, (heads, size))
        .transpose(1, 2)
        for role, size in (("query", keys), ("key", keys), ("value", values))
    )
    strength = linear(w, f"{at}.write", x).sigmoid().mT.unsqueeze(-1)
    opened = F.softplus(linear(w, f"{at}.forget", x) + w[f"{at}.shift"])
    decay = (-w[f"{at}.rate"].exp() * opened).mT
    y = _delta_rule(_unit(q) * keys**-0.5, _unit(k), v, strength, decay).transpose(1, 2)
    y = _norm(w, f"{at}.mix_norm", y) * F.silu(linear(w, f"{at}.gate", x)).view_as(y)
    return linear(w, f"{at}.out", y.flatten(2))


def _convolved(x, weight):
    """Convolve each channel over the tokens before; weight is [channels, tokens]."""
    channels, size = weight.shape
    result = F.conv1d(x.mT, weight.unsqueeze(1), padding=size - 1, groups=channels)
    return F.silu(result[..., : x.shape[1]].mT)


def _unit(x):
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6)


def _delta_rule(*given):
    """Return what queries read: [batch, heads, sequence, size].

    Given are queries, keys and values of that shape, strengths [.., 1] and logarithms of decay [..].
    """
    state, results = 0, []
    for q, k, v, strength, decay in zip(*(each.split(CHUNK, 2) for each in given), strict=True):
        if not results:
            state = q.new_zeros(*k.shape[:2], k.shape[-1], v.shape[-1])
        total = decay.cumsum(-1).unsqueeze(-1)
        apart = (total - total.mT).tril().exp().tril()
        since, until = total.exp(), (total[..., -1:, :] - total).exp()
        system = (strength * (k @ k.mT) * apart).tril(-1)
        wanted = strength * (v - since * (k @ state))
        written = torch.linalg.solve_triangular(system, wanted, upper=False, unitriangular=True)
        results.append((q @ k.mT * apart) @ written + since * (q @ state))
        state = since[..., -1:, :] * state + (until * k).mT @ written
    return torch.cat(results, 2)


def _product_key_experts(config, w, at, x, memory, n):
    """Each head of a token finds experts of one neuron by the two halves of its query (PEER)."""
    (keys, size), active = config.geometry(x.shape[-1]), config.active
    q = _norm(w, f"{at}.query_norm", linear(w, f"{at}.query", x).unflatten(-1, (config.heads, size)))
    (first, left), (second, right) = (
        (half @ w[f"{at}.{name}_keys"].mT).topk(active)
        for half, name in zip(q.chunk(2, -1), ("first", "second"), strict=True)
    )
    pairs = (first.unsqueeze(-1) + second.unsqueeze(-2)).flatten(-2)
    experts = (keys * left.unsqueeze(-1) + right.unsqueeze(-2)).flatten(-2)
    scores, places = pairs.topk(active)
    chosen = experts.gather(-1, places)
    up, down = (F.embedding(chosen, w[f"{at}.{name}"]) for name in ("up", "down"))
    hidden = F.gelu(torch.einsum("bsd,bshkd->bshk", x, up)) * scores.softmax(-1)
    return torch.einsum("bshk,bshkd->bsd", hidden, down)


def _norm(w, name, x):
    return F.rms_norm(x, x.shape[-1:], w[name], 1e-6)


COMPACT_BLOCKS = {
    "latent_attention": _latent_attention,
    "gated_delta": _gated_delta,
    "product_key_experts": _product_key_experts,
}
