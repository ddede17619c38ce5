"""Plain PyTorch for residual mixes with weights per token; values are [batch, sequence, width]."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from blocks.kernels.backward_passes import running
from blocks.primitives.reference import EPS, wide
from blocks.wiring.residual.mix.reference import ValueMemory, split_heads, values_read, weighted_sum


def norm_latest(value: Tensor, token: Tensor, memory: ValueMemory, reads: int) -> Tensor:
    """Return v / rms(v) of slot `reads` - 1, or of `value` if `reads` is 0."""
    result: Tensor = _NormLatest.apply(value, token, memory, reads)  # type: ignore[no-untyped-call]
    return result


def weigh_by_token(*given: Any, reads: int, heads: int) -> Tensor:
    """Return the sum of values with weights per token.

    The values are the start, the first `reads` slots and the partial. `given` are the start, the partial if
    there is one, weights [batch, sequence, most, heads] by distance, from the latest value back, the order
    token, the memory and weights [most, heads] that are added to these.
    """
    *own, dynamic, token, memory, static = given
    result: Tensor = _WeighByToken.apply(token, memory, static, dynamic, reads, *own)  # type: ignore[no-untyped-call]
    return result


class _NormLatest(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, token: Tensor, memory: ValueMemory, reads: int) -> Tensor:
        full = wide(memory.values[reads - 1] if reads else value)
        scale = torch.linalg.vector_norm(full, dim=-1, keepdim=True)
        scale.square_().div_(full.shape[-1]).add_(EPS).rsqrt_()
        ctx.memory, ctx.reads, ctx.made = memory, reads, running()
        ctx.save_for_backward(value, token, scale)
        normed: Tensor = full * scale
        return normed.to(value.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        memory, reads = ctx.memory, ctx.reads
        memory.check(ctx.made)
        value, token, scale = ctx.saved_tensors
        gradient = wide(gradient)
        normed = wide(memory.values[reads - 1] if reads else value) * scale
        by_value = gradient - normed.mul_((gradient * normed).mean(-1, keepdim=True))
        by_value.mul_(scale)
        if reads:
            memory.gradients()[reads - 1] += by_value
        return None if reads else by_value.to(value.dtype), torch.zeros_like(token), None, None


class _WeighByToken(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        token: Tensor,
        memory: ValueMemory,
        static: Tensor,
        dynamic: Tensor,
        reads: int,
        *own: Tensor,
    ) -> Tensor:
        ctx.memory, ctx.reads, ctx.made = memory, reads, running()
        ctx.save_for_backward(token, static, dynamic, *own)
        latest_first = values_read(own, memory.values[:reads])[::-1]
        return weighted_sum(latest_first, _shares(dynamic, static, len(latest_first))).to(own[0].dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        memory, reads = ctx.memory, ctx.reads
        memory.check(ctx.made)
        token, static, dynamic, *own = ctx.saved_tensors
        heads, gradient = static.shape[1], wide(gradient)
        by_own = [torch.zeros_like(gradient) for _ in own]
        latest_first = values_read(own, memory.values[:reads])[::-1]
        gathered = values_read(by_own, memory.gradients()[:reads])[::-1]
        shares = _shares(dynamic, static, len(latest_first))
        by_dynamic = torch.zeros(dynamic.shape, dtype=gradient.dtype, device=gradient.device)
        for ago, value in enumerate(latest_first):
            torch.sum(split_heads(gradient * value, heads), -1, out=by_dynamic[:, :, ago])
            split_heads(gathered[ago], heads).addcmul_(
                split_heads(gradient, heads), shares[ago].unsqueeze(-1)
            )
        by_static = by_dynamic.sum((0, 1)).to(static.dtype)
        returned = (made.to(value.dtype) for made, value in zip(by_own, own, strict=True))
        return torch.zeros_like(token), None, by_static, by_dynamic.to(dynamic.dtype), None, *returned


def _shares(dynamic: Tensor, static: Tensor, count: int) -> Tensor:
    """Return the weights [count, batch, sequence, heads] of `count` values."""
    return (wide(dynamic[:, :, :count]) + wide(static[:count])).movedim(2, 0)
