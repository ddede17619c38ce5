"""Residual mixes with Triton kernels: the functions of the references, with the same gradients.

Each read adds to the gradients of the slots, as in the reference; the first one of a backward pass writes
them. On a CPU, to which a model planned for a GPU may be moved, the references run.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from blocks.kernels.backward_passes import running
from blocks.kernels.tensors import fits
from blocks.kernels.weight_sums import WeightSum, sum_of
from blocks.primitives.fused import put_shares, shares_of
from blocks.wiring.residual.mix import reference, relu_reference, token_reference
from blocks.wiring.residual.mix.mix_kernels import (
    attend_kernel,
    latest_kernel,
    rectify_kernel,
    weigh_kernel,
)
from blocks.wiring.residual.mix.reference import ValueMemory


def attend(*given: Any, reads: int, heads: int) -> Tensor:
    """Return the sum of values weighted by a softmax over query . RMSNorm(value).

    The values are the start, the first `reads` slots and the partial. `given` are the start, the partial if
    there is one, the order token, the memory and the query [width].
    """
    *own, token, memory, query = given
    if not fits(*own, query, memory.values):
        return reference.attend(*given, reads=reads, heads=heads)
    shares = sum_of(query)
    result: Tensor = _Attend.apply(token, memory, query, shares, reads, heads, *own)  # type: ignore[no-untyped-call]
    return result


def weigh(*given: Any, reads: int, heads: int) -> Tensor:
    """Return the same with weights [most, heads] by distance, from the latest value back."""
    *own, token, memory, weights = given
    if not fits(*own, weights, memory.values):
        return reference.weigh(*given, reads=reads, heads=heads)
    result: Tensor = _Weigh.apply(token, memory, weights, None, reads, *own)  # type: ignore[no-untyped-call]
    return result


def weigh_by_token(*given: Any, reads: int, heads: int) -> Tensor:
    """Return the same with weights per token [batch, sequence, most, heads], plus learned ones [most, heads].

    The former are given before the order token, the latter last.
    """
    *own, dynamic, token, memory, static = given
    if not fits(*own, dynamic, static, memory.values):
        return token_reference.weigh_by_token(*given, reads=reads, heads=heads)
    result: Tensor = _Weigh.apply(token, memory, static, dynamic, reads, *own)  # type: ignore[no-untyped-call]
    return result


def rectify(*given: Any, reads: int, heads: int) -> Tensor:
    """Return the sum of the same values weighted by b + ReLU(w . RMSNorm(value)).

    `given` ends with b [most, width] by distance, from the latest value back, and w [width].
    """
    *own, token, memory, static, query = given
    if not fits(*own, static, query, memory.values):
        return relu_reference.rectify(*given, reads=reads, heads=heads)
    result: Tensor = _Rectify.apply(token, memory, static, query, reads, heads, *own)  # type: ignore[no-untyped-call]
    return result


def norm_latest(value: Tensor, token: Tensor, memory: ValueMemory, reads: int) -> Tensor:
    """Return v / rms(v) of slot `reads` - 1, or of `value` if `reads` is 0."""
    if not fits(value, memory.values):
        return token_reference.norm_latest(value, token, memory, reads)
    result: Tensor = _NormLatest.apply(value, token, memory, reads)  # type: ignore[no-untyped-call]
    return result


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        token: Tensor,
        memory: ValueMemory,
        query: Tensor,
        shares: WeightSum | None,
        reads: int,
        heads: int,
        *own: Tensor,
    ) -> Tensor:
        ctx.memory, ctx.shares, ctx.reads, ctx.made = memory, shares, reads, running()
        out, log_sum = attend_kernel.attend_forward(own, memory.values[:reads], query, heads)
        ctx.save_for_backward(query, out, log_sum, *own)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        memory, reads = ctx.memory, ctx.reads
        memory.check(ctx.made)
        query, out, log_sum, *own = ctx.saved_tensors
        so_far = shares_of(ctx.shares)
        to_slots, add = memory.gradients_of(reads)
        given = (own, memory.values[:reads], query, out, log_sum, gradient, to_slots, add, so_far)
        to_own = attend_kernel.attend_backward(*given)
        to_query = put_shares(ctx.shares, so_far, query.dtype) if ctx.needs_input_grad[2] else None
        return None, None, to_query, None, None, None, *to_own


class _Weigh(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        token: Tensor,
        memory: ValueMemory,
        static: Tensor,
        dynamic: Tensor | None,
        reads: int,
        *own: Tensor,
    ) -> Tensor:
        ctx.memory, ctx.reads, ctx.made = memory, reads, running()
        ctx.save_for_backward(static, dynamic, *own)
        return weigh_kernel.weigh_forward(own, memory.values[:reads], static, dynamic)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        memory, reads = ctx.memory, ctx.reads
        memory.check(ctx.made)
        static, dynamic, *own = ctx.saved_tensors
        given = (own, memory.values[:reads], static, dynamic, gradient, *memory.gradients_of(reads))
        to_weights, *to_own = weigh_kernel.weigh_backward(*given)
        to_static = to_weights.sum((0, 1)).to(static.dtype)
        to_dynamic = None if dynamic is None else to_weights.to(dynamic.dtype)
        return None, None, to_static, to_dynamic, None, *to_own


class _Rectify(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        token: Tensor,
        memory: ValueMemory,
        static: Tensor,
        query: Tensor,
        reads: int,
        heads: int,
        *own: Tensor,
    ) -> Tensor:
        ctx.memory, ctx.reads, ctx.heads, ctx.made = memory, reads, heads, running()
        ctx.save_for_backward(static, query, *own)
        return rectify_kernel.rectify_forward(own, memory.values[:reads], static, query, heads)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        memory, reads = ctx.memory, ctx.reads
        memory.check(ctx.made)
        static, query, *own = ctx.saved_tensors
        given = (own, memory.values[:reads], static, query, ctx.heads, gradient)
        shares, *to_own = rectify_kernel.rectify_backward(*given, *memory.gradients_of(reads))
        to_static = torch.zeros_like(static, dtype=torch.float32)
        torch.sum(shares[:, 0], 0, out=to_static[: shares.shape[2]])
        to_query = shares[:, 1].sum((0, 1))
        weights = to_static.to(static.dtype), to_query.to(query.dtype)
        return None, None, *weights, None, None, *to_own


class _NormLatest(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, token: Tensor, memory: ValueMemory, reads: int) -> Tensor:
        ctx.memory, ctx.reads, ctx.made = memory, reads, running()
        ctx.save_for_backward(value)
        return latest_kernel.norm_forward(memory.values[reads - 1] if reads else value, value.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        memory, reads = ctx.memory, ctx.reads
        memory.check(ctx.made)
        (value,) = ctx.saved_tensors
        if reads:
            into = memory.gradients()[reads - 1]
            latest_kernel.norm_backward(memory.values[reads - 1], gradient, into, add=True)
            return None, None, None, None
        made = torch.empty_like(value)
        latest_kernel.norm_backward(value, gradient, made, add=False)
        return made, None, None, None
