"""Truncated backpropagation: steps without gradients, and the values they carry on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


@contextmanager
def without_gradients() -> Iterator[None]:
    """Run steps without saving tensors for a backward pass.

    Autocast's cache of cast weights is off: later steps would reuse the casts, which have no gradients.
    """
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        with torch.no_grad():
            yield
    finally:
        torch.set_autocast_cache_enabled(before)


class _Constant(torch.autograd.Function):
    """Returns x and drops its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, anchor: Tensor) -> Tensor:
        """Return x; `anchor` requires a gradient, so that autograd records what reads x."""
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None]:
        """Drop the gradient."""
        return None, None


def as_constant(x: Tensor) -> Tensor:
    """Return x as a constant that autograd records like any state.

    Otherwise the first recorded step would save less than the others, and costs would differ.
    """
    if not x.is_floating_point():
        return x
    anchor = torch.empty(0, device=x.device, requires_grad=True)
    made: Tensor = _Constant.apply(x.detach(), anchor)  # type: ignore[no-untyped-call]
    return made
