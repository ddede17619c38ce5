"""Residual mixes with Triton kernels: the functions of `reference.py`, with the same gradients.

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
from blocks.primitives.fused import summed_shares
from blocks.wiring.residual.mix import kernel, reference
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
        out, log_sum = kernel.attend_forward(own, memory.values[:reads], query, heads)
        ctx.save_for_backward(query, out, log_sum, *own)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        memory, reads = ctx.memory, ctx.reads
        memory.check(ctx.made)
        query, out, log_sum, *own = ctx.saved_tensors
        so_far: dict[int, Tensor] = (ctx.shares and ctx.shares.so_far()) or {}
        to_slots, add = memory.gradients_of(reads)
        given = (own, memory.values[:reads], query, out, log_sum, gradient, to_slots, add, so_far)
        to_own = kernel.attend_backward(*given)
        to_query = None
        if ctx.shares is None:
            to_query = summed_shares(so_far).to(query.dtype)
        elif ctx.needs_input_grad[2]:
            ctx.shares.put(so_far, summed_shares)
        return None, None, to_query, None, None, None, *to_own
