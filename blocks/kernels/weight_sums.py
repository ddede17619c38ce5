"""fp32 accumulation of the gradients of weights that several steps use.

Autograd would accumulate the gradients of a cast weight in its narrow dtype and round after each step. Here
the cast weight, computed once per forward pass, has a `WeightSum` attached. Operations that know it add their
gradient to the sum of the running backward pass and return none; autograd reaches the cast weight after all
its users, and takes the sum. A backward pass over a part of the graph may leave a sum, which is dropped when
the pass ends. Parameters get one gradient per pass, so hooks, gradient accumulation and data parallelism work
as usual.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from blocks.kernels.backward_passes import drop_at_end, running
from blocks.kernels.products import add_product

_NAME = "_attention_composer_sum"


class WeightSum:
    """The partial sums of the gradient of one weight, one per running backward pass."""

    def __init__(self) -> None:
        self._totals: dict[int, Any] = {}
        self._finish: Callable[[Any], Tensor] | None = None

    def add_product(self, a: Tensor, b: Tensor) -> None:
        """Add a @ b, in fp32 or wider."""
        self.put(add_product(self.so_far(), a, b))

    def so_far(self) -> Any:
        """Return the partial sum of the running backward pass, initially None."""
        return self._totals.get(running())

    def put(self, total: Any, finish: Callable[[Any], Tensor] | None = None) -> None:
        """Set the partial sum, or any object that `finish` converts to the gradient."""
        if running() not in self._totals:
            drop_at_end(self)
        self._totals[running()], self._finish = total, finish

    def take(self) -> Tensor | None:
        """Return and remove the gradient of the running backward pass, or None."""
        total = self._totals.pop(running(), None)
        return total if total is None or self._finish is None else self._finish(total)

    def drop(self, number: int) -> None:
        """Drop the partial sum of a backward pass."""
        self._totals.pop(number, None)


def summed(weights: Sequence[Tensor], dtype: torch.dtype, multiple: int = 1) -> Tensor:
    """Return weights [n_i, ...] cast and concatenated, with a `WeightSum` if they require gradients.

    Each of several weights is padded with zero rows to the next multiple.
    """
    if not (torch.is_grad_enabled() and any(weight.requires_grad for weight in weights)):
        return stacked(weights, dtype, multiple)
    total = WeightSum()
    made: Tensor = _Summed.apply(total, dtype, multiple, *weights)  # type: ignore[no-untyped-call]
    setattr(made, _NAME, total)
    return made


def partial_sums(
    known: dict[int, Tensor], rows: int, columns: int, device: torch.device
) -> tuple[Tensor, bool]:
    """Return fp32 [rows, columns] for partial sums of a gradient, and whether it holds those of earlier uses.

    It stands in `known` by its number of rows.
    """
    if rows in known:
        return known[rows], True
    known[rows] = torch.empty((rows, columns), dtype=torch.float32, device=device)
    return known[rows], False


def sum_of(weight: Tensor) -> WeightSum | None:
    """Return the `WeightSum` attached to a weight, or None."""
    return None if torch.compiler.is_compiling() else getattr(weight, _NAME, None)


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, total: WeightSum, dtype: torch.dtype, multiple: int, *weights: Tensor) -> Tensor:
        ctx.total, ctx.dtypes = total, [weight.dtype for weight in weights]
        ctx.sizes, ctx.multiple = [len(weight) for weight in weights], multiple
        ctx.set_materialize_grads(False)
        made = stacked(weights, dtype, multiple)
        return made.view_as(made) if made is weights[0] else made

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None) -> tuple[Tensor | None, ...]:
        total = ctx.total.take()
        if gradient is not None:
            # from operations that do not know the sum
            total = gradient if total is None else total + gradient
        if total is None:
            return (None,) * (3 + len(ctx.sizes))
        several = len(ctx.sizes) > 1
        parts = total.split([_padded(size, ctx.multiple) for size in ctx.sizes]) if several else [total]
        sums = zip(parts, ctx.sizes, ctx.dtypes, strict=True)
        return None, None, None, *(part[:size].to(dtype) for part, size, dtype in sums)


def stacked(weights: Sequence[Tensor], dtype: torch.dtype, multiple: int) -> Tensor:
    """Return weights cast to a dtype and concatenated."""
    if len(weights) == 1:
        return weights[0].to(dtype)
    parts = []
    for weight in weights:
        cast = weight.to(dtype)
        missing = _padded(len(weight), multiple) - len(weight)
        parts += [cast, cast.new_zeros(missing, *cast.shape[1:])] if missing else [cast]
    return torch.cat(parts)


def _padded(size: int, multiple: int) -> int:
    return size + -size % multiple
