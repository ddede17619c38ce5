"""One preallocated gradient tensor for a joined projection such as QKV.

The output of a joined projection is split into parts, and autograd would concatenate their gradients. Here
each part has an attribute that names its slice of one gradient tensor, and operations that know it write
their gradient there. Only other gradients, such as sums over several readers, are copied.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from blocks.kernels.backward_passes import drop_at_end, running

_NAME = "_attention_composer_place"


class GradientSlice(NamedTuple):
    """The slice of a joined gradient that belongs to one part."""

    joined: JoinedGradient
    number: int

    def take(self, dtype: torch.dtype) -> Tensor | None:
        """Return the slice to write to in the running backward pass.

        None if it was taken before, by another reader of the part, or has another dtype.
        """
        return self.joined.take(self.number) if dtype == self.joined.dtype else None


class JoinedGradient:
    """The gradient of a product that is split into parts, one tensor per running backward pass."""

    def __init__(
        self,
        shape: Sequence[int],
        dtype: torch.dtype,
        device: torch.device,
        split: Callable[[Tensor], Sequence[Tensor]],
    ) -> None:
        """`split` returns the parts of a tensor of this shape as views that cover it."""
        self.dtype, self.split = dtype, split
        self._shape, self._device = shape, device
        self._begun: dict[int, tuple[Tensor, list[Tensor], set[int]]] = {}

    def attach(self, parts: Sequence[Tensor]) -> None:
        """Attach its slice to each part."""
        for number, part in enumerate(parts):
            setattr(part, _NAME, GradientSlice(self, number))

    def take(self, number: int) -> Tensor | None:
        """Return the slice of a part; None if the running backward pass has returned it before."""
        if running() not in self._begun:
            whole = self._empty()
            self._begun[running()] = whole, [*self.split(whole)], set()
            drop_at_end(self)
        _, parts, taken = self._begun[running()]
        if number in taken:
            return None
        taken.add(number)
        return parts[number]

    def join(self, gradients: Sequence[Tensor | None]) -> Tensor:
        """Return the joined gradient of all parts, None being zero; those outside their slices are copied."""
        begun = self._begun.pop(running(), None)
        if begun is None or torch.is_grad_enabled():
            # one launch; for double backward autograd has to see the operation
            parts = zip(gradients, self.split(self._empty()), strict=True)
            all_parts = [torch.zeros_like(part) if each is None else each for each, part in parts]
            return torch.cat([each.flatten(len(self._shape) - 1) for each in all_parts], -1)
        whole, places, _ = begun
        for place, gradient in zip(places, gradients, strict=True):
            if gradient is None:
                place.zero_()
            elif not _lies_in(gradient, place):
                place.copy_(gradient)
        return whole

    def _empty(self) -> Tensor:
        return torch.empty(self._shape, dtype=self.dtype, device=self._device)

    def drop(self, number: int) -> None:
        """Drop the tensors of a backward pass."""
        self._begun.pop(number, None)


def gradient_slice(part: Tensor) -> GradientSlice | None:
    """Return the slice attached to a part, or None."""
    return None if torch.compiler.is_compiling() else getattr(part, _NAME, None)


def _lies_in(tensor: Tensor, place: Tensor) -> bool:
    """Return whether a tensor is the slice itself."""
    same = tensor.untyped_storage()._cdata == place.untyped_storage()._cdata
    at = (tensor.storage_offset(), tensor.stride(), tensor.dtype)
    return same and at == (place.storage_offset(), place.stride(), place.dtype)
