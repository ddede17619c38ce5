"""Rotations over depth in the layout of kernels: cosine and sine of each pair, for many steps at once."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

_FEWEST = 32
"""The smallest number of steps to compute rotations for."""

_MADE: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
"""Rotations by tensor of angles, while that is alive: each forward pass has a new one."""


def step_rotation(angle: Tensor, index: int) -> Tensor:
    """Return cosine and sine of `index` times each angle [pairs], pair by pair: [2 * pairs], fp32."""
    made: Tensor | None = _MADE.get(angle)  # type: ignore[no-untyped-call]
    if made is None or len(made) <= index:
        count = max(_FEWEST, 1 << index.bit_length())
        steps = torch.arange(count, device=angle.device, dtype=torch.float32)
        turned = steps[:, None] * angle.float()
        made = _MADE[angle] = torch.stack((turned.cos(), turned.sin()), -1).flatten(1)
    return made[index]
