"""Fake tensors that report a CUDA device, so that code takes the same paths as on a GPU without computing.

The CPU build of PyTorch supports no autograd on fake CUDA tensors. These are fake CPU tensors, and functions
that query the device are replaced.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any, Literal
from unittest.mock import patch

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from blocks.ir.kernel import Target
from blocks.kernels import gpu, tensors
from blocks.primitives import reference
from blocks.sequence_attention import ordered
from composer.graph.passes import self_test
from composer.module import batch, target, weights

CAPABILITY = 90
"""The compute capability that tiles are chosen for: that of an H100 and an H200."""

Precision = Literal["bfloat16", "float32"]
"""The precision of matrix products: bf16 by autocast, or fp32."""


@contextmanager
def fake_gpu(precision: Precision = "bfloat16") -> Iterator[None]:
    """Create all new tensors as fake CUDA tensors until the context ends; with bf16 under autocast."""
    here = Target("cuda", precision, here=True)
    with ExitStack() as stack:
        for function, other in _REPLACED:
            stack.enter_context(replaced(function, other))
        stack.enter_context(replaced(target.target_of, lambda weight: here))
        stack.enter_context(patch.object(FakeTensor, "is_cuda", True))
        stack.enter_context(patch.object(FakeTensor, "data_ptr", lambda tensor: 0))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"))
        yield


def _empty(name: str, weight: Any, *_: Any) -> Tensor:
    return torch.empty(weight.shape)


_REPLACED: tuple[tuple[Callable[..., Any], Callable[..., Any]], ...] = (
    (gpu.architecture, lambda device: CAPABILITY),
    (gpu.on, lambda device: nullcontext()),
    (tensors.fits, lambda *given: all(each.dtype in tensors.DTYPES for each in given)),
    (reference.alignment, lambda weight: 16),
    (ordered._let_torch_order, lambda: None),
    (self_test.self_test, lambda *given: ""),
    (weights.initial, _empty),
    (batch.check_range, lambda *given, **named: None),
)
"""Functions that query the device or read values, and their replacements."""


@contextmanager
def replaced(function: Callable[..., Any], other: Callable[..., Any]) -> Iterator[None]:
    """Replace a function in each of our modules that imported it, until the context ends."""
    name = function.__name__
    with ExitStack() as stack:
        for module in [*sys.modules.values()]:
            ours = getattr(module, "__name__", "").split(".")[0] in ("blocks", "composer")
            if ours and vars(module).get(name) is function:
                stack.enter_context(patch.object(module, name, other))
        yield
