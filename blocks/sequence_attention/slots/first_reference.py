"""Plain PyTorch for attention to keys and values of the first step. q: [B, chosen, heads, head_dim].

The slot is written in place (`blocks.kernels.slot_memory`), so a read is a custom autograd function.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from blocks.kernels.backward_passes import running
from blocks.kernels.slot_memory import SlotMemory
from blocks.sequence_attention.capped_reference import by_heads, by_tokens


def attend_first(q: Tensor, places: Tensor, token: Tensor, memory: SlotMemory) -> Tensor:
    """Causal attention to the tokens in the first slot, at least in fp32.

    places: indices of the queries' tokens [B, chosen] in the flattened batch.
    """
    y: Tensor = _First.apply(q, places, token, memory)  # type: ignore[no-untyped-call]
    return y


def attended_first(q: Tensor, places: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Return what `attend_first` does, and the weights; keys, values: [B, S, kv_heads, head_dim]."""
    length, groups = keys.shape[1:3]
    with torch.autocast(q.device.type, enabled=False):
        scores = torch.bmm(by_heads(q, groups), by_heads(keys, groups).mT)
        later = torch.arange(length, device=q.device) > (places % length).unsqueeze(-1)
        by_query = scores.view(len(q), -1, *later.shape[1:])
        by_query.masked_fill_(later.unsqueeze(1), -torch.inf)
        del by_query, later
        weights = scores.mul_(q.shape[-1] ** -0.5).softmax(-1)
        del scores
        y = torch.bmm(weights, by_heads(values, groups))
    return by_tokens(y, q).to(q.dtype), weights


class _First(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, places: Tensor, token: Tensor, memory: SlotMemory) -> Tensor:
        ctx.memory, ctx.made = memory, running()
        y, weights = attended_first(q, places, memory.keys[0], memory.values[0])
        ctx.save_for_backward(q, token, weights)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        ctx.memory.check(ctx.made)
        q, token, weights = ctx.saved_tensors
        memory, groups = ctx.memory, ctx.memory.keys.shape[3]
        keys, values = memory.gradients()
        to_y = by_heads(gradient, groups)
        to_scores = torch.bmm(to_y, by_heads(memory.values[0], groups).mT)
        to_scores.sub_((weights * to_scores).sum(-1, keepdim=True)).mul_(weights).mul_(q.shape[-1] ** -0.5)
        values[0] += by_tokens(torch.bmm(weights.mT, to_y), values[0])
        del to_y
        to_q = by_tokens(torch.bmm(to_scores, by_heads(memory.keys[0], groups)), q).to(q.dtype)
        keys[0] += by_tokens(torch.bmm(to_scores.mT, by_heads(q, groups)), keys[0])
        return to_q, None, torch.zeros_like(token), None
