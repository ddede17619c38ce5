"""What self-tests of kernels share: drawn inputs, a comparison with fp64, and peace from the caller."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from blocks.ir.kernel import Target

TOLERANCES = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 4e-2}
"""Of the norm of what is expected; a kernel that is wrong is off by far more."""


@contextmanager
def apart(target: Target) -> Iterator[None]:
    """Leave what the caller does to tensors: whoever runs a model may cast, or watch what is kept."""
    unwatched = saved_tensors_hooks(_itself, _itself)
    uncast = torch.autocast(target.device, enabled=False)
    with torch.inference_mode(False), torch.enable_grad(), unwatched, uncast:
        yield


def drawn(shapes: Sequence[tuple[int, ...]], target: Target) -> list[Tensor]:
    """Return normal tensors on a target, always the same ones."""
    draw = torch.Generator().manual_seed(0)
    dtype = getattr(torch, target.dtype)
    return [torch.randn(shape, generator=draw).to(target.device, dtype) for shape in shapes]


def off(names: Sequence[str], found: Sequence[Tensor], wanted: Sequence[Tensor], dtype: str = "") -> str:
    """Return which of some tensors is off from what is wanted in fp64, and by how much, or "".

    How far it may be follows from its dtype, or from `dtype` where it was worked out in that.
    """
    for name, got, expected in zip(names, found, wanted, strict=True):
        exact = expected.detach()
        share = float((got.detach().double() - exact).norm() / exact.norm().clamp(min=1e-12))
        kind = getattr(torch, dtype) if dtype else got.dtype
        if not share <= TOLERANCES[kind]:  # nor is NaN
            return f"{name} is off by {share:.2g} of its norm in {str(kind).removeprefix('torch.')}"
    return ""


def _itself(tensor: Tensor) -> Tensor:
    return tensor
