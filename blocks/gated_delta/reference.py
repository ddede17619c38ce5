"""Plain PyTorch for the gated delta rule (arXiv 2412.06464).

q, k: [B, S, heads, key_dim]; v: [B, S, heads, value_dim]; write, forget: [B, S, heads], before their
nonlinearities; rate, shift: [heads]; state: [B, heads, key_dim, value_dim].
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from blocks.gated_delta.operations import CHUNK
from blocks.primitives.reference import wide

_EPS = 1e-6


def mix(
    q: Tensor, k: Tensor, v: Tensor, write: Tensor, forget: Tensor, rate: Tensor, shift: Tensor
) -> Tensor:
    """Return what the state of all tokens up to each token gives for its query, by chunks.

    The inputs alone are kept for the backward pass, which makes the rest again.
    """
    made: Tensor = _MadeAgain.apply(q, k, v, write, forget, rate, shift)  # type: ignore[no-untyped-call]
    return made


class _MadeAgain(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *given: Tensor) -> Tensor:
        ctx.save_for_backward(*given)
        return _mixed(*given)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        given = [
            each.detach().requires_grad_(needed)
            for each, needed in zip(ctx.saved_tensors, ctx.needs_input_grad, strict=True)
        ]
        with torch.enable_grad():
            made = _mixed(*given)
        wanted = [each for each in given if each.requires_grad]
        found = iter(torch.autograd.grad(made, wanted, grad))
        return tuple(next(found) if each.requires_grad else None for each in given)


def _mixed(
    q: Tensor, k: Tensor, v: Tensor, write: Tensor, forget: Tensor, rate: Tensor, shift: Tensor
) -> Tensor:
    return chunked(*prepared(q, k, v, write, forget, rate, shift))[0].transpose(1, 2).to(v.dtype)


def mix_plain(
    q: Tensor, k: Tensor, v: Tensor, write: Tensor, forget: Tensor, rate: Tensor, shift: Tensor
) -> Tensor:
    """Return the same token by token, as the equations say."""
    return stepped(*prepared(q, k, v, write, forget, rate, shift))[0].transpose(1, 2).to(v.dtype)


def prepared(
    q: Tensor, k: Tensor, v: Tensor, write: Tensor, forget: Tensor, rate: Tensor, shift: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return queries, keys, values, strengths and log decays at least in fp32: [B, heads, S, ...]."""
    q, k, v, write, forget = (wide(each).transpose(1, 2) for each in (q, k, v, write, forget))
    decay = -wide(rate).exp()[:, None] * F.softplus(forget + wide(shift)[:, None])
    return unit(q) * q.shape[-1] ** -0.5, unit(k), v, write.sigmoid(), decay


def unit(x: Tensor) -> Tensor:
    """Return x at length 1 over the last dimension."""
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + _EPS)


def stepped(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, decay: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the outputs [B, heads, S, value_dim] and the last state, one token after another."""
    state = empty_state(k, v) if state is None else state
    out = []
    for t in range(q.shape[2]):
        state = state * decay[:, :, t, None, None].exp()
        error = v[:, :, t] - torch.einsum("bhkv,bhk->bhv", state, k[:, :, t])
        state = state + torch.einsum("bhk,bhv->bhkv", k[:, :, t], beta[:, :, t, None] * error)
        out.append(torch.einsum("bhkv,bhk->bhv", state, q[:, :, t]))
    return torch.stack(out, 2), state


def chunked(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, decay: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the same, `CHUNK` tokens at a time: one triangular system gives what they write."""
    state = empty_state(k, v) if state is None else state
    out = []
    parts = (each.split(CHUNK, 2) for each in (q, k, v, beta, decay))  # type: ignore[no-untyped-call]
    for query, key, value, strength, log_decay in zip(*parts, strict=True):
        total = log_decay.cumsum(-1)
        between = total.unsqueeze(-1) - total.unsqueeze(-2)
        later = torch.ones_like(between, dtype=torch.bool).triu(1)
        # masked before exp: what lies after a token would overflow, and its gradient with it
        kept = between.masked_fill(later, -torch.inf).exp()
        strength, since = strength.unsqueeze(-1), total.unsqueeze(-1).exp()
        seen = (strength * (key @ key.mT) * kept).tril(-1)
        rest = strength * (value - since * (key @ state))
        written = torch.linalg.solve_triangular(seen, rest, upper=False, unitriangular=True)
        out.append(since * (query @ state) + (query @ key.mT * kept) @ written)
        last = total[..., -1:]
        state = state * last.unsqueeze(-1).exp() + (key * (last - total).exp().unsqueeze(-1)).mT @ written
    return torch.cat(out, 2), state


def empty_state(k: Tensor, v: Tensor) -> Tensor:
    """Return the state before the first token."""
    return k.new_zeros(*k.shape[:2], k.shape[-1], v.shape[-1])
