"""Self-tests of the kernels of residual streams: a few tokens, compared with fp64."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from blocks.ir.kernel import Target
from blocks.kernels.self_tests import isolated, mismatch, random_tensors
from blocks.wiring.residual.streams import by_autograd, fused, reference
from blocks.wiring.residual.streams.operations import (
    MapAndRead,
    ReadStreams,
    StreamMaps,
    WriteStreams,
    mix_shape,
)

if TYPE_CHECKING:
    from blocks.wiring.residual.streams.config import Constraint

TOKENS = 19
"""More than one program makes maps of, and no multiple."""


def check_maps(operation: StreamMaps | None, target: Target) -> str:
    """Test the kernels of maps in an operation's sizes (None: 4 streams of 96) on the target's device.

    Returns a description of the largest error, or "" on success. Random state and autocast are unaffected.
    """
    if operation is None:
        wrong = (check_maps(StreamMaps(96, 4, kind), target) for kind in _KINDS)
        return next(filter(None, wrong), "")
    own, plain = partial(fused.make_maps, kind=operation.constraint), getattr(by_autograd, operation.function)
    return _wrong_maps(own, plain, operation, (operation.streams, operation.columns), target)


def check_map_and_read(operation: MapAndRead | None, target: Target) -> str:
    """Test the kernels of maps and of reading by them, in the same way."""
    if operation is None:
        wrong = (check_map_and_read(MapAndRead(96, 4, kind), target) for kind in _KINDS)
        return next(filter(None, wrong), "")
    own, plain = _joined(fused.map_and_read_streams, operation), _joined(reference.map_and_read, operation)
    return _wrong_maps(own, plain, operation, (operation.width + operation.elements,), target)


_KINDS: tuple[Constraint, ...] = ("none", "diagonal", "doubly_stochastic")


def _joined(function: Callable[..., tuple[Tensor, ...]], operation: MapAndRead) -> Callable[..., Tensor]:
    """Return a function with both outputs in one tensor."""
    return lambda *given: torch.cat([each.flatten(2) for each in function(*given, operation.constraint)], -1)


def _wrong_maps(
    own: Callable[..., Tensor],
    plain: Callable[..., Tensor],
    operation: StreamMaps,
    out: tuple[int, ...],
    target: Target,
) -> str:
    """Return what is wrong with a function of streams, projection, scales and static part, or ""."""
    base = (operation.streams, operation.columns)
    shapes = {
        "streams": (1, TOKENS, operation.streams, operation.width),
        "projection": operation.weight_shapes()[0],
        "scales": base[1:],
        "static part": base,
    }
    wrong = _wrong(_scaled(own), _scaled(plain), shapes, (1, TOKENS, *out), target)
    return wrong and f"{operation.constraint}: {wrong}"


def _scaled(maps: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return a function that scales the projection, so that maps are not saturated."""
    return lambda h, projection, *others: maps(h, projection * projection.shape[1] ** -0.5, *others)


def check_read(operation: ReadStreams | None, target: Target) -> str:
    """Test the kernels that read streams, in the same way."""
    if operation is None:
        static, dynamic = (ReadStreams(96, 4, dynamic, "none") for dynamic in (False, True))
        return check_read(static, target) or check_read(dynamic, target)
    n, width = operation.streams, operation.width
    shapes = {"streams": (1, TOKENS, n, width), "factors": _factors(operation)}
    plain = by_autograd.read_dynamic if operation.dynamic else by_autograd.read_static
    return _wrong(fused.read_streams, plain, shapes, (1, TOKENS, width), target)


def check_write(operation: WriteStreams | None, target: Target) -> str:
    """Test the kernels that write streams, in the same way."""
    if operation is None:
        static, dynamic = (WriteStreams(96, 4, dynamic, "none") for dynamic in (False, True))
        return check_write(static, target) or check_write(dynamic, target)
    h = (1, TOKENS, operation.streams, operation.width)
    diagonal = operation.constraint == "diagonal"
    shapes = {"streams": h, "update": (1, TOKENS, operation.width), "factors": _factors(operation)}
    if operation.dynamic:
        own = partial(fused.write_streams, mix=None, diagonal=diagonal)
        return _wrong(own, partial(by_autograd.write_dynamic, diagonal=diagonal), shapes, h, target)
    shapes["mix"] = mix_shape(operation.streams, operation.constraint)
    own = partial(fused.write_streams, diagonal=diagonal)
    return _wrong(own, by_autograd.write_static, shapes, h, target)


def _factors(operation: ReadStreams | WriteStreams) -> tuple[int, ...]:
    """Return the shape of maps, or of static factors."""
    n = operation.streams
    if not operation.dynamic:
        return (n,)
    return (1, TOKENS, n, 3 if operation.constraint == "diagonal" else 2 + n)


def _wrong(
    own: Callable[..., Tensor],
    plain: Callable[..., Tensor],
    shapes: Mapping[str, tuple[int, ...]],
    out: tuple[int, ...],
    target: Target,
) -> str:
    """Return the first of output and gradients that differs from plain PyTorch in fp64, or ""."""
    with isolated(target):
        *given, gradient = random_tensors([*shapes.values(), out], target)
        results, expected = (
            _gradients(function, leaves, gradient)
            for function, leaves in ((own, given), (plain, [each.double() for each in given]))
        )
        return mismatch(["output", *(f"gradient of the {name}" for name in shapes)], results, expected)


def _gradients(function: Callable[..., Tensor], given: list[Tensor], gradient: Tensor) -> list[Tensor]:
    leaves = [each.detach().requires_grad_() for each in given]
    made = function(*leaves)
    return [made, *torch.autograd.grad(made, leaves, gradient.to(made.dtype))]
