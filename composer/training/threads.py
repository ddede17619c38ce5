"""How many threads a training on a CPU runs on."""

from __future__ import annotations

import torch

_DEFAULT = torch.get_num_threads()
_WORTH_SHARING = 1 << 19
"""Elements of one activation: two threads were slower than one at 0.1M, faster at 1M, on two cores."""


def use_fitting_threads(elements: int) -> None:
    """Run on one thread where an activation of `elements` (tokens x width) is too small to share out."""
    torch.set_num_threads(1 if elements < _WORTH_SHARING else _DEFAULT)
