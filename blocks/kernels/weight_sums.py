"""Gradients of weights that several steps use, added up in fp32 by the products that make them.

Autograd would add up the gradients of a cast weight in its narrow dtype, one after the other, and round each
time. Here a weight made ready once per forward pass carries a sum along. An operation that finds it adds what
it has to the sum of the running backward pass and returns no gradient of the weight; autograd reaches the
weight after all operations that used it, and takes the sum then. A pass over a part of the graph leaves a sum
behind that nobody takes, which is dropped when it ends. Parameters get one gradient per pass, so hooks,
accumulation over micro-batches and data parallelism see nothing of this.
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
    """The gradient of one weight, as far as each running backward pass has added it up."""

    def __init__(self) -> None:
        self._totals: dict[int, Any] = {}
        self._finish: Callable[[Any], Tensor] | None = None

    def add_product(self, a: Tensor, b: Tensor) -> None:
        """Add a @ b, in fp32 at least."""
        self.put(add_product(self.so_far(), a, b))

    def so_far(self) -> Any:
        """Return what the running backward pass has put, None at first."""
        return self._totals.get(running())

    def put(self, total: Any, finish: Callable[[Any], Tensor] | None = None) -> None:
        """Put the sum until now, or anything that `finish` turns into the gradient in the end."""
        if running() not in self._totals:
            drop_at_end(self)
        self._totals[running()], self._finish = total, finish

    def take(self) -> Tensor | None:
        """Return the gradient that the running backward pass has added up, None where it has not."""
        total = self._totals.pop(running(), None)
        return total if total is None or self._finish is None else self._finish(total)

    def drop(self, number: int) -> None:
        """Drop what a backward pass left behind."""
        self._totals.pop(number, None)


def summed(weights: Sequence[Tensor], dtype: torch.dtype, multiple: int = 1) -> Tensor:
    """Return weights [n_i, ...] cast and stacked, with a sum for their gradient where they want one.

    After each of several stand rows of zeros up to the next multiple.
    """
    if not (torch.is_grad_enabled() and any(weight.requires_grad for weight in weights)):
        return stacked(weights, dtype, multiple)
    total = WeightSum()
    made: Tensor = _Summed.apply(total, dtype, multiple, *weights)  # type: ignore[no-untyped-call]
    setattr(made, _NAME, total)
    return made


def sum_of(weight: Tensor) -> WeightSum | None:
    """Return the sum that a weight carries along, None where autograd adds up its gradients."""
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
            # of operations that know of no sum
            total = gradient if total is None else total + gradient
        if total is None:
            return (None,) * (3 + len(ctx.sizes))
        several = len(ctx.sizes) > 1
        parts = total.split([_padded(size, ctx.multiple) for size in ctx.sizes]) if several else [total]
        found = zip(parts, ctx.sizes, ctx.dtypes, strict=True)
        return None, None, None, *(part[:size].to(dtype) for part, size, dtype in found)


def stacked(weights: Sequence[Tensor], dtype: torch.dtype, multiple: int) -> Tensor:
    """Return weights cast to a dtype and stacked, one alone as it is."""
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
