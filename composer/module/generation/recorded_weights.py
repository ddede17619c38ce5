"""The weights that a recording reads where they were when it was made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

Weights = Sequence[tuple[Any, bool]]
"""Weights, each with whether it was prepared for a generation: then no module holds it."""


class RecordedWeights:
    """Weights of a model at fixed addresses, and tensors that were prepared from them."""

    def __init__(self, weights: Weights) -> None:
        self._weights = [*weights]
        self._addresses = [_address(each) for each, _ in weights]

    @torch.no_grad()
    def refresh(self, weights: Weights) -> bool:
        """Write prepared tensors anew from those of a later generation.

        Returns False, and writes nothing, if the recording does not read these weights.
        """
        written: list[tuple[Tensor, Tensor]] = []
        for (held, prepared), address, (new, _) in zip(self._weights, self._addresses, weights, strict=True):
            if not isinstance(new, Tensor):
                if new is not held:
                    return False
            elif _address(new) != address or not _alike(held, new):
                if not prepared or _address(held) != address or not _alike(held, new):
                    return False
                written.append((held, new))
        for held, new in written:
            held.copy_(new)
        return True


def _address(weight: Any) -> int | None:
    return weight.data_ptr() if isinstance(weight, Tensor) else None


def _alike(one: Tensor, two: Tensor) -> bool:
    return (one.shape, one.dtype, one.device, one.stride()) == (
        two.shape,
        two.dtype,
        two.device,
        two.stride(),
    )
