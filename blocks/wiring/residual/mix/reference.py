"""Plain PyTorch for residual mixes: write to a slot, sum over the slots so far.

Values are [batch, sequence, width]. The slots are written in place, so both are custom autograd functions, as
in depth attention: a read adds to the gradients of the slots, and the write of a slot returns them. Values
are read one by one, so that each stays in the processor's cache; stacking them would copy all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from blocks.kernels.backward_passes import running
from blocks.kernels.slot_memory import DepthMemory
from blocks.primitives.reference import EPS, product_dtype, wide


class ValueMemory(DepthMemory):
    """The outputs of the sublayers of one stage, [count, batch, sequence, width].

    They are in the compute dtype. Gradients are accumulated at least in fp32.
    """

    def __init__(self, shape: tuple[int, ...], device: torch.device) -> None:
        super().__init__(shape, device)
        self.values = torch.empty(0, device=device)
        self._gradients: Tensor | None = None

    def write(self, slot: int, value: Tensor) -> None:
        """Write one slot; the first write allocates all."""
        if not self.values.numel():
            self.values = torch.empty(self._shape, dtype=product_dtype(value), device=self._device)
        self.values[slot].copy_(value)

    def gradients(self) -> Tensor:
        """Return the gradients of the current backward pass, initially zero."""
        if self.begins() or self._gradients is None:
            dtype = torch.promote_types(self.values.dtype, torch.float32)
            self._gradients = torch.zeros(self._shape, dtype=dtype, device=self._device)
        return self._gradients

    def gradients_of(self, reads: int) -> tuple[Tensor, bool]:
        """Return the gradients of the first `reads` slots, and whether they are accumulated.

        If not, the current backward pass begins: they are uninitialized, and those of the other slots zero.
        """
        if not self.begins() and self._gradients is not None:
            return self._gradients[:reads], True
        dtype = torch.promote_types(self.values.dtype, torch.float32)
        made = self._gradients = torch.empty(self._shape, dtype=dtype, device=self._device)
        made[reads:].zero_()
        return made[:reads], False


def values(tokens: Tensor, count: int, width: int) -> tuple[ValueMemory, Tensor]:
    """Return empty slots for tokens [batch, sequence], and the first order token."""
    return ValueMemory((count, *tokens.shape, width), tokens.device), torch.zeros((), device=tokens.device)


def write(value: Tensor, token: Tensor, memory: ValueMemory, slot: int) -> Tensor:
    """Write a value to a slot; return the next order token."""
    result: Tensor = _Write.apply(value, token, memory, slot)  # type: ignore[no-untyped-call]
    return result


def attend(*given: Any, reads: int, heads: int) -> Tensor:
    """Return the sum of values weighted by a softmax over query . RMSNorm(value).

    The values are the start, the first `reads` slots and the partial. `given` are the start, the partial if
    there is one, the order token, the memory and the query [width].
    """
    *own, token, memory, query = given
    result: Tensor = _Attend.apply(token, memory, query, reads, heads, *own)  # type: ignore[no-untyped-call]
    return result


def weigh(*given: Any, reads: int, heads: int) -> Tensor:
    """Return the same with weights [most, heads] by distance, from the latest value back."""
    *own, token, memory, weights = given
    result: Tensor = _Weigh.apply(token, memory, weights, reads, *own)  # type: ignore[no-untyped-call]
    return result


def attend_stacked(stacked: Tensor, query: Tensor, heads: int) -> Tensor:
    """Return `attend` by autograd, from all values [values, batch, sequence, width]."""
    full = wide(stacked)
    normed = full * torch.rsqrt(full.square().mean(-1, keepdim=True) + EPS)
    scores = split_heads(normed * query, heads).sum(-1, keepdim=True)
    return (scores.softmax(0) * split_heads(full, heads)).sum(0).flatten(-2).to(stacked.dtype)


def values_read(own: Sequence[Tensor], slots: Tensor) -> list[Tensor]:
    """Return the values in order: the start, the slots, the partial."""
    return [own[0], *slots, *own[1:]]


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Return x [.., width] as [.., heads, width / heads]."""
    return torch.unflatten(x, -1, (heads, -1))


def weighted_sum(read: Sequence[Tensor], weights: Tensor) -> Tensor:
    """Return the sum of values with weights that broadcast to [values, batch, sequence, heads]."""
    total = torch.zeros(read[0].shape, dtype=weights.dtype, device=weights.device)
    for value, weight in zip(read, weights, strict=True):
        split_heads(total, weight.shape[-1]).addcmul_(
            split_heads(wide(value), weight.shape[-1]), weight.unsqueeze(-1)
        )
    return total


def value_scores(read: Sequence[Tensor], query: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    """Return scores [values, batch, sequence, heads] and 1 / RMS of each value [.., 1], in fp32."""
    shape, query = read[0].shape[:2], wide(query)
    scores = torch.empty(len(read), *shape, heads, dtype=query.dtype, device=query.device)
    scales = torch.empty(len(read), *shape, 1, dtype=query.dtype, device=query.device)
    for number, value in enumerate(read):
        full = wide(value)
        torch.sum(split_heads(full * query, heads), -1, out=scores[number])
        torch.linalg.vector_norm(full, dim=-1, keepdim=True, out=scales[number])
    scales.square_().div_(read[0].shape[-1]).add_(EPS).rsqrt_()
    return scores.mul_(scales), scales


class _Write(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, token: Tensor, memory: ValueMemory, slot: int) -> Tensor:
        memory.write(slot, value)
        ctx.memory, ctx.slot, ctx.dtype, ctx.made = memory, slot, value.dtype, running()
        ctx.set_materialize_grads(False)
        # no view, of which FSDP warns
        return torch.empty_like(token)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _: Tensor | None) -> tuple[Tensor | None, ...]:
        ctx.memory.check(ctx.made)
        gradient = ctx.memory.gradients()[ctx.slot]
        return gradient.to(ctx.dtype, copy=True), None, None, None


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, token: Tensor, memory: ValueMemory, query: Tensor, reads: int, heads: int, *own: Tensor
    ) -> Tensor:
        ctx.memory, ctx.reads, ctx.heads, ctx.made = memory, reads, heads, running()
        read = values_read(own, memory.values[:reads])
        scores, scales = value_scores(read, query, heads)
        ctx.save_for_backward(token, query, scores, scales, *own)
        return weighted_sum(read, scores.softmax(0)).to(own[0].dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        memory, reads = ctx.memory, ctx.reads
        memory.check(ctx.made)
        token, query, scores, scales, *own = ctx.saved_tensors
        gradient, query_wide = wide(gradient), wide(query)
        read = values_read(own, memory.values[:reads])
        weights = scores.softmax(0)
        by_score = _by_weight(read, gradient, ctx.heads)
        by_score = weights * (by_score - (weights * by_score).sum(0))
        by_query = torch.zeros_like(query_wide)
        by_own = [torch.zeros_like(gradient) for _ in own]
        gathered = values_read(by_own, memory.gradients()[:reads])
        for number, value in enumerate(read):
            full, scale = wide(value), scales[number]
            by_dot = by_score[number] * scale
            shrunk = (by_score[number] * scores[number]).sum(-1, keepdim=True) * scale.square()
            by_query += (split_heads(full, ctx.heads) * by_dot.unsqueeze(-1)).sum((0, 1)).flatten()
            into = gathered[number]
            heads = split_heads(into, ctx.heads)
            heads.addcmul_(split_heads(gradient, ctx.heads), weights[number].unsqueeze(-1))
            heads.addcmul_(split_heads(query_wide, ctx.heads), by_dot.unsqueeze(-1))
            into.addcmul_(full, shrunk, value=-1 / full.shape[-1])
        returned = (made.to(value.dtype) for made, value in zip(by_own, own, strict=True))
        return torch.zeros_like(token), None, by_query.to(query.dtype), None, None, *returned


class _Weigh(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, token: Tensor, memory: ValueMemory, weights: Tensor, reads: int, *own: Tensor
    ) -> Tensor:
        ctx.memory, ctx.reads, ctx.made = memory, reads, running()
        ctx.save_for_backward(token, weights, *own)
        read = values_read(own, memory.values[:reads])
        return weighted_sum(read, wide(weights[: len(read)]).flip(0)[:, None, None]).to(own[0].dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        memory, reads = ctx.memory, ctx.reads
        memory.check(ctx.made)
        token, weights, *own = ctx.saved_tensors
        heads, gradient, shares = weights.shape[1], wide(gradient), wide(weights)
        by_weights = torch.zeros_like(shares)
        by_own = [torch.zeros_like(gradient) for _ in own]
        gathered = values_read(by_own, memory.gradients()[:reads])
        for ago, value in enumerate(reversed(values_read(own, memory.values[:reads]))):
            by_weights[ago] = split_heads(gradient * value, heads).sum((0, 1, 3))
            into = split_heads(gathered[-1 - ago], heads)
            into.addcmul_(split_heads(gradient, heads), shares[ago].unsqueeze(-1))
        returned = (made.to(value.dtype) for made, value in zip(by_own, own, strict=True))
        return torch.zeros_like(token), None, by_weights.to(weights.dtype), None, *returned


def _by_weight(read: Sequence[Tensor], gradient: Tensor, heads: int) -> Tensor:
    """Return the gradient of the weights [values, batch, sequence, heads]."""
    gradients = torch.empty(
        len(read), *gradient.shape[:2], heads, dtype=gradient.dtype, device=gradient.device
    )
    for number, value in enumerate(read):
        torch.sum(split_heads(gradient * value, heads), -1, out=gradients[number])
    return gradients
