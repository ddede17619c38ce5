"""The number of threads of a training on a CPU. Torch-free until they are set."""

from __future__ import annotations

from functools import cache

_WORTH_SHARING = 1 << 19
"""Elements of one activation: two threads were slower than one at 0.1M, faster at 1M, on two cores."""


def is_worth_sharing(elements: int) -> bool:
    """Whether an activation of `elements` (tokens x width) is large enough for several threads."""
    return elements >= _WORTH_SHARING


def use_fitting_threads(elements: int) -> None:
    """Use one thread if an activation of `elements` (tokens x width) is too small for several."""
    import torch

    default = _default()
    torch.set_num_threads(default if is_worth_sharing(elements) else 1)


@cache
def _default() -> int:
    """Return torch's own number of threads, as of the first call."""
    import torch

    return torch.get_num_threads()
