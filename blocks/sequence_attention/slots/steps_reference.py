"""Plain PyTorch for attention over the tokens of all steps so far. q: [B, S, heads, head_dim].

Slots are written in place, as in `blocks.kernels.slot_memory`, so a read is a custom autograd function.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from blocks.kernels.backward_passes import running
from blocks.kernels.slot_memory import SlotMemory
from blocks.primitives.reference import wide
from blocks.sequence_attention.capped_reference import by_heads, by_tokens


def attend_steps(q: Tensor, mask: Tensor, token: Tensor, memory: SlotMemory, reads: int) -> Tensor:
    """Attend where the mask [S, S] is True to the tokens in each of the first `reads` slots."""
    y: Tensor = _Steps.apply(q, mask, token, memory, reads)  # type: ignore[no-untyped-call]
    return y


def attended_steps(q: Tensor, mask: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Return what `attend_steps` does, and the weights; keys, values: [reads, B, S, kv_heads, head_dim]."""
    reads, groups, length = len(keys), keys.shape[3], len(mask)
    with torch.autocast(q.device.type, enabled=False):
        scores = torch.bmm(by_heads(q, groups), _side_by_side(keys).mT)
        by_step = scores.view(len(scores), -1, length, reads, length)
        by_step.masked_fill_(~mask[:, None], -torch.inf)
        del by_step
        weights = scores.mul_(q.shape[-1] ** -0.5).softmax(-1)
        del scores
        y = torch.bmm(weights, _side_by_side(values))
    return by_tokens(y, q).to(q.dtype), weights


class _Steps(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, mask: Tensor, token: Tensor, memory: SlotMemory, reads: int) -> Tensor:
        ctx.memory, ctx.reads, ctx.made = memory, reads, running()
        y, weights = attended_steps(q, mask, *memory.read(slice(reads)))
        ctx.save_for_backward(q, token, weights)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        ctx.memory.check(ctx.made)
        q, token, weights = ctx.saved_tensors
        memory, reads = ctx.memory, ctx.reads
        groups = memory.keys.shape[3]
        keys, values = memory.gradients()
        to_y = by_heads(gradient, groups)
        to_scores = torch.bmm(to_y, _side_by_side(memory.values[:reads]).mT)
        to_scores.sub_((weights * to_scores).sum(-1, keepdim=True)).mul_(weights).mul_(q.shape[-1] ** -0.5)
        values[:reads] += _as_slots(torch.bmm(weights.mT, to_y), values)
        del to_y
        to_q = by_tokens(torch.bmm(to_scores, _side_by_side(memory.keys[:reads])), q).to(q.dtype)
        keys[:reads] += _as_slots(torch.bmm(to_scores.mT, by_heads(q, groups)), keys)
        return to_q, None, torch.zeros_like(token), None, None


def _side_by_side(x: Tensor) -> Tensor:
    """Return slots x [reads, B, S, groups, d] as [B * groups, reads * S, d], at least in fp32."""
    reads, batch, length, groups, size = x.shape
    return wide(x).permute(1, 3, 0, 2, 4).reshape(batch * groups, reads * length, size)


def _as_slots(x: Tensor, like: Tensor) -> Tensor:
    """Invert `_side_by_side`; the result has the shape of `like`."""
    _, batch, length, groups, size = like.shape
    return x.view(batch, groups, -1, length, size).permute(2, 0, 3, 1, 4)
