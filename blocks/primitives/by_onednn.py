"""The projections of `reference.py` on a CPU, by oneDNN on processors where that is faster."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from blocks.kernels.onednn import linear
from blocks.primitives import reference


def project(x: Tensor, weight: Tensor, shape: Sequence[int]) -> Tensor:
    """Return x @ weight.T split into `shape`; x may be split into heads. weight: [prod(shape), fan_in]."""
    y = linear(x.flatten(2), weight)
    return y.view(*y.shape[:2], *shape)


def project_biased(x: Tensor, weight: Tensor, bias: Tensor, shape: Sequence[int]) -> Tensor:
    """Return the same plus a bias [prod(shape)]."""
    y = linear(x.flatten(2), weight, bias)
    return y.view(*y.shape[:2], *shape)


def project_joined(x: Tensor, weight: Tensor, shapes: Sequence[Sequence[int]]) -> tuple[Tensor, ...]:
    """Return one output per shape, computed by one product with the joined weight."""
    return reference.parted(linear(x.flatten(2), weight), shapes, reference.alignment(weight))


def project_biased_joined(
    x: Tensor, weight: Tensor, bias: Tensor, shapes: Sequence[Sequence[int]]
) -> tuple[Tensor, ...]:
    """Return the same plus the joined bias."""
    return reference.parted(linear(x.flatten(2), weight, bias), shapes, reference.alignment(weight))


def project_adapted(x: Tensor, *weights: Tensor, shape: Sequence[int], index: int) -> Tensor:
    """Return the projection of x with the adapter of step `index`; see the reference."""
    return reference.project_adapted(x, *weights, shape=shape, index=index, linear=linear)
