"""Helpers for self-tests of kernels: random inputs, comparison with fp64, isolation from the caller."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from blocks.ir.kernel import Target

TOLERANCES = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 4e-2}
"""Largest relative error in norm; the error of a wrong kernel is far larger."""


@contextmanager
def isolated(target: Target) -> Iterator[None]:
    """Disable the caller's autocast, saved-tensor hooks and inference mode within the context."""
    unwatched = saved_tensors_hooks(_itself, _itself)
    uncast = torch.autocast(target.device, enabled=False)
    with torch.inference_mode(False), torch.enable_grad(), unwatched, uncast:
        yield


def random_tensors(shapes: Sequence[tuple[int, ...]], target: Target) -> list[Tensor]:
    """Return normally distributed tensors on a target, from a fixed seed."""
    draw = torch.Generator().manual_seed(0)
    dtype = getattr(torch, target.dtype)
    return [torch.randn(shape, generator=draw).to(target.device, dtype) for shape in shapes]


def mismatch(
    names: Sequence[str], results: Sequence[Tensor], wanted: Sequence[Tensor], dtype: str = ""
) -> str:
    """Return the first tensor that differs from the expected fp64 one, with its relative error, or "".

    The tolerance depends on the tensor's dtype, or on `dtype` if that is the dtype it was computed in.
    """
    for name, got, expected in zip(names, results, wanted, strict=True):
        exact = expected.detach()
        share = float((got.detach().double() - exact).norm() / exact.norm().clamp(min=1e-12))
        kind = getattr(torch, dtype) if dtype else got.dtype
        if not share <= TOLERANCES[kind]:  # nor is NaN
            return f"{name} is off by {share:.2g} of its norm in {str(kind).removeprefix('torch.')}"
    return ""


def _itself(tensor: Tensor) -> Tensor:
    return tensor
