"""The check that a model's logits are numbers, which does not wait for a GPU at every token."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class FiniteLogits:
    """Notes, on the device, where the logits of each row were first NaN or infinite."""

    def __init__(self, model: nn.Module, rows: int, device: torch.device) -> None:
        self._model = model
        self._first = torch.full((rows,), _NEVER, device=device)

    def note(self, logits: Tensor, position: int) -> None:
        """Note rows whose logits [batch, vocab] of the token at a position are not finite."""
        broken = logits.isfinite().all(-1).logical_not()
        self._first = torch.where(broken, self._first.clamp(max=position), self._first)

    def check(self, ends: Sequence[int]) -> None:
        """Check the logits noted so far; waits for the device.

        Args:
            ends: the number of tokens of each row that ended, after which nothing counts; 0 for others.

        Raises:
            ValueError: a row has logits that are not finite.
        """
        for row, (first, end) in enumerate(zip(self._first.tolist(), ends, strict=True)):
            if first < (end or _NEVER):
                place = f"the token at position {first} (from 0) of row {row}"
                raise ValueError(f"expected finite logits for {place}, got NaN or inf: {_cause(self._model)}")


_NEVER = 2**62


def _cause(model: nn.Module) -> str:
    """Say why logits are probably not finite."""
    broken = [name for name, weight in model.named_parameters() if not weight.isfinite().all()]
    if not broken:
        return "all weights are finite, but large enough to overflow, as after training that diverged"
    others = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
    return f"weights are NaN or inf, as after training that diverged: {broken[0]}{others}"
