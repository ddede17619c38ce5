"""Plain PyTorch for joint attention over tokens and depth.

q: [B, S, heads, head_dim]; k, v: [B, S, kv_heads, head_dim]. Slots are written in place, as in
`blocks.kernels.slot_memory`, so reads and writes are custom autograd functions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from blocks.kernels.backward_passes import running
from blocks.kernels.slot_memory import SlotMemory
from blocks.primitives.reference import wide
from blocks.sequence_attention.capped_reference import by_heads, by_tokens, masked


def attend_joint(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor, token: Tensor, memory: SlotMemory, reads: int
) -> Tensor:
    """Attend, with one softmax, to tokens where the mask [S, S] is True and to the first `reads` slots."""
    y: Tensor = _Joint.apply(q, k, v, mask, token, memory, reads)  # type: ignore[no-untyped-call]
    return y


def attended_joint(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor, slots: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, Tensor]:
    """Return what `attend_joint` does, and the weights.

    slots: keys and values [reads, B, S, kv_heads, head_dim] of the slots read, None for no slots.
    """
    length, groups = k.shape[1:3]
    with torch.autocast(q.device.type, enabled=False):
        scores = masked(torch.bmm(by_heads(q, groups), by_heads(k, groups).mT), mask)
        if slots is not None:
            own = torch.bmm(_each(q, groups), _by_token(slots[0]).mT)
            scores = torch.cat((scores, _among_heads(own, q, groups)), -1)
            del own
        weights = scores.mul_(q.shape[-1] ** -0.5).softmax(-1)
        del scores
        y = by_tokens(torch.bmm(weights[..., :length], by_heads(v, groups)), q)
        if slots is not None:
            shares = _among_tokens(weights[..., length:], q, groups)
            y += torch.bmm(shares, _by_token(slots[1])).view(y.shape)
    return y.to(v.dtype), weights


class _Joint(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor,
        token: Tensor,
        memory: SlotMemory,
        reads: int,
    ) -> Tensor:
        ctx.memory, ctx.reads, ctx.made = memory, reads, running()
        y, weights = attended_joint(q, k, v, mask, memory.read(slice(reads)) if reads else None)
        ctx.save_for_backward(q, k, v, token, weights)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        ctx.memory.check(ctx.made)
        q, k, v, token, weights = ctx.saved_tensors
        memory, reads = ctx.memory, ctx.reads
        keys, values = memory.gradients()
        length, groups = k.shape[1:3]
        to_y = by_heads(gradient, groups)
        to_scores = torch.bmm(to_y, by_heads(v, groups).mT)
        if reads:
            own = torch.bmm(_each(gradient, groups), _by_token(memory.values[:reads]).mT)
            to_scores = torch.cat((to_scores, _among_heads(own, q, groups)), -1)
            del own
        to_scores.sub_((weights * to_scores).sum(-1, keepdim=True)).mul_(weights).mul_(q.shape[-1] ** -0.5)
        to_v = by_tokens(torch.bmm(weights[..., :length].mT, to_y), v).to(v.dtype)
        del to_y
        to_q = by_tokens(torch.bmm(to_scores[..., :length], by_heads(k, groups)), q)
        to_k = by_tokens(torch.bmm(to_scores[..., :length].mT, by_heads(q, groups)), k).to(k.dtype)
        if reads:
            own = _among_tokens(to_scores[..., length:], q, groups)
            del to_scores
            to_q += torch.bmm(own, _by_token(memory.keys[:reads])).view(to_q.shape)
            keys[:reads] += _as_slots(torch.bmm(own.mT, _each(q, groups)), keys)
            del own
            shares = _among_tokens(weights[..., length:], q, groups)
            values[:reads] += _as_slots(torch.bmm(shares.mT, _each(gradient, groups)), values)
        return to_q.to(q.dtype), to_k, to_v, None, torch.zeros_like(token), None, None


def _each(x: Tensor, groups: int) -> Tensor:
    """Return x [B, S, heads, head_dim] as [B * S * groups, heads / groups, head_dim], at least in fp32."""
    return wide(x).reshape(-1, x.shape[2] // groups, x.shape[3])


def _by_token(x: Tensor) -> Tensor:
    """Return slots x [reads, B, S, groups, d] as [B * S * groups, reads, d], at least in fp32."""
    return wide(x).permute(1, 2, 3, 0, 4).reshape(-1, len(x), x.shape[4])


def _as_slots(x: Tensor, like: Tensor) -> Tensor:
    """Invert `_by_token`; the result has the shape of `like`."""
    return x.view(*like.shape[1:4], -1, like.shape[4]).permute(3, 0, 1, 2, 4)


def _among_heads(x: Tensor, q: Tensor, groups: int) -> Tensor:
    """Return x [B * S * groups, heads / groups, slots] as [B * groups, heads / groups * S, slots]."""
    batch, length, heads, _ = q.shape
    return x.view(batch, length, heads, -1).transpose(1, 2).reshape(batch * groups, -1, x.shape[-1])


def _among_tokens(x: Tensor, q: Tensor, groups: int) -> Tensor:
    """Invert `_among_heads`."""
    batch, length, heads, _ = q.shape
    by_head = x.reshape(batch, heads, length, -1).transpose(1, 2)
    return by_head.reshape(batch * length * groups, heads // groups, -1)
