"""Plain PyTorch for Gated DeltaNet (arXiv 2412.06464), token by token.

q, k: [B, S, heads, key_dim]; v: [B, S, heads, value_dim]; write, forget: [B, S, heads], before their
nonlinearities; rate, shift: [heads].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from blocks.primitives.reference import wide

_EPS = 1e-6


def mix_plain(
    q: Tensor, k: Tensor, v: Tensor, write: Tensor, forget: Tensor, rate: Tensor, shift: Tensor
) -> Tensor:
    """Return the values that each query reads from the state after its token: [B, S, heads, value_dim].

    At each token the state [B, heads, key_dim, value_dim] decays, then the value stored at the token's key
    moves towards the token's value. Computed at least in fp32.
    """
    query, key, value = unit(wide(q)) * q.shape[-1] ** -0.5, unit(wide(k)), wide(v)
    strength = wide(write).sigmoid()
    decay = (-wide(rate).exp() * F.softplus(wide(forget) + wide(shift))).exp()
    state = key.new_zeros(len(k), *k.shape[2:], v.shape[-1])
    outputs = []
    for t in range(k.shape[1]):
        state = state * decay[:, t, :, None, None]
        error = value[:, t] - (state * key[:, t, :, :, None]).sum(2)
        state = state + key[:, t, :, :, None] * (strength[:, t, :, None] * error)[:, :, None]
        outputs.append((state * query[:, t, :, :, None]).sum(2))
    return torch.stack(outputs, 1).to(v.dtype)


def unit(x: Tensor) -> Tensor:
    """Return x normalized to length 1 over the last dimension."""
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + _EPS)


def convolve_plain(x: Tensor, weight: Tensor) -> Tensor:
    """Return silu(sum over j of weight[:, -1 - j] * x[t - j]); weight: [channels, size]."""
    flat, size = wide(x.flatten(2)), weight.shape[1]
    padded = F.pad(flat, (0, 0, size - 1, 0))
    each = [padded[:, j : j + x.shape[1]] * weight[:, j] for j in range(size)]
    return F.silu(torch.stack(each).sum(0)).to(x.dtype).view(x.shape)
