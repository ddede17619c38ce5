"""The gradients of the parts of one product, written side by side where the next product reads them.

A product whose columns are split into parts, such as query, key and value, gets a gradient for each, and
autograd would copy them into one tensor. Here each part carries its place along: an operation that finds it
writes its gradient there. The product copies only what was made elsewhere, such as the sum of the gradients
of several readers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from blocks.kernels.backward_passes import drop_at_end, running

_NAME = "_attention_composer_place"


class Place(NamedTuple):
    """Where the gradient of one part is to be written."""

    joined: JoinedGradient
    number: int

    def take(self, dtype: torch.dtype) -> Tensor | None:
        """Return the part's gradient in the running backward pass, not yet written; None for a second reader.

        None too where it has another dtype.
        """
        return self.joined.take(self.number) if dtype == self.joined.dtype else None


class JoinedGradient:
    """The gradient of a product that is split into parts, one for each running backward pass."""

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

    def put_places(self, parts: Sequence[Tensor]) -> None:
        """Let each part carry its place along."""
        for number, part in enumerate(parts):
            setattr(part, _NAME, Place(self, number))

    def take(self, number: int) -> Tensor | None:
        """Return one part, to be written; None where the running backward pass has handed it out."""
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
        """Return the whole of the gradients of all parts, None for zeros; those in their places are there."""
        begun = self._begun.pop(running(), None)
        if begun is None or torch.is_grad_enabled():
            # one launch; of a gradient of gradients autograd has to know
            parts = zip(gradients, self.split(self._empty()), strict=True)
            found = [torch.zeros_like(part) if each is None else each for each, part in parts]
            return torch.cat([each.flatten(len(self._shape) - 1) for each in found], -1)
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
        """Drop what a backward pass left behind."""
        self._begun.pop(number, None)


def gradient_slice(part: Tensor) -> Place | None:
    """Return the place that a part carries along, None where it has none."""
    return None if torch.compiler.is_compiling() else getattr(part, _NAME, None)


def _lies_in(tensor: Tensor, place: Tensor) -> bool:
    """Return whether a tensor is a place itself."""
    same = tensor.untyped_storage()._cdata == place.untyped_storage()._cdata
    at = (tensor.storage_offset(), tensor.stride(), tensor.dtype)
    return same and at == (place.storage_offset(), place.stride(), place.dtype)
