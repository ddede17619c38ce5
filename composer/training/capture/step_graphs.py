"""Decides which training steps are replayed from recordings, and which run as usual."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from composer.module.capture.recorded_step import RecordedStep
from composer.module.capture.recorder import CannotCapture, Recorder
from composer.module.core import ModelCore
from composer.module.passes import Keys, keys_of, losses
from composer.module.steps import step_key
from composer.settings.errors import first_line

MOST = 8
"""Maximum number of recordings, one for each sampled number of steps; others run as usual."""

_LOSS_OFF, _GRADIENTS_OFF = 1e-2, 5e-2
"""Tolerances of a replay: relative error of the loss, and of the gradients in norm."""


class StepGraphs:
    """Computes the losses of micro-batches like `losses`, by replaying recordings where possible.

    The shape of the first micro-batch is recorded, once for each number of steps. Micro-batches of other
    shapes run as usual, and so do all while the model has hooks, values are recorded, or other weights are
    frozen. If weights have new addresses, everything is recorded again.

    A recording is compared once with the plain step, on another micro-batch with other weights. If they
    differ, or recording fails, training continues without recordings and warns why.

    Attributes:
        off: why recording was given up; "" if it was not.
        replayed: the number of replayed micro-batches.
    """

    def __init__(self, recorder: Callable[[], Recorder], required: bool) -> None:
        """`recorder` makes one with its own memory pool; with `required`, a failure is an error."""
        self._make, self._required = recorder, required
        self._recorder = recorder()
        self._shape: torch.Size | None = None
        self._made: dict[Any, _Recording] = {}
        self._state: list[tuple[int, bool]] = []
        self.off, self.replayed = "", 0

    def losses(self, model: ModelCore, tokens: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a micro-batch and further metrics by name.

        Raises:
            CannotCapture: recordings are required, and one fails or is inaccurate.
        """
        if not self._takes(model, tokens):
            return losses(model, tokens, targets)
        keys = keys_of(model, tokens)
        try:
            recording = self._recording(model, tokens, targets, keys)
        except (RuntimeError, CannotCapture) as error:  # errors of the driver, of memory or of a kernel
            self._give_up(first_line(error), error)
            recording = None
        if recording is None:
            return losses(model, tokens, targets, keys)
        self.replayed += 1
        loss, *reported = recording.step(_tensors(tokens, targets, keys))
        return loss, dict(zip(recording.names, reported, strict=True))

    def forget(self) -> None:
        """Release all recordings and their memory."""
        self._made = {}
        self._recorder = self._make()

    def _takes(self, model: ModelCore, tokens: Tensor) -> bool:
        if self.off or not (model.training and torch.is_grad_enabled()):
            return False
        self._shape = self._shape or tokens.shape
        plain = not (model._watched or model._taps or torch.is_anomaly_enabled())
        return plain and tokens.shape == self._shape

    def _recording(self, model: ModelCore, tokens: Tensor, targets: Tensor, keys: Keys) -> _Recording | None:
        state = [(each.data_ptr(), each.requires_grad) for each in (*model.parameters(), *model.buffers())]
        if state != self._state:
            self.forget()
            self._state = state
        key = step_key(model._switch.steps)
        recording = self._made.get(key)
        if recording is not None and recording.plan is not model.plan:
            recording = None
        if recording is None:
            if len(self._made) >= MOST and key not in self._made:
                return None
            with _buffers_kept(model):
                recording = self._made[key] = _Recording(self._recorder, model, tokens, targets, keys)
        elif not recording.proved and recording.made_at != model.randomness.step:
            with _buffers_kept(model):
                recording.prove(model, tokens, targets, keys)
        return recording

    def _give_up(self, reason: str, error: Exception) -> None:
        self.forget()
        if self._required:
            raise CannotCapture(f"a CUDA graph cannot hold this training step: {reason}") from error
        self.off = reason
        warnings.warn(f"training goes on without a CUDA graph: {reason}", stacklevel=2)


class _Recording:
    """One recorded step, its code, and whether the two were compared."""

    def __init__(
        self, recorder: Recorder, model: ModelCore, tokens: Tensor, targets: Tensor, keys: Keys
    ) -> None:
        self.plan, self.made_at, self.proved = model.plan, model.randomness.step, False
        self.names: tuple[str, ...] = ()

        def run(tokens: Tensor, targets: Tensor, *drawn: Tensor) -> list[Tensor]:
            loss, reported = losses(model, tokens, targets, _put(keys, drawn))
            self.names = (*reported,)
            return [loss, *reported.values()]

        weights = [each for each in model.parameters() if each.requires_grad]
        self._weights = weights
        self.step = RecordedStep(recorder, run, _tensors(tokens, targets, keys), weights)

    def prove(self, model: ModelCore, tokens: Tensor, targets: Tensor, keys: Keys) -> None:
        """Compare a replay with the plain step.

        Raises:
            CannotCapture: they differ.
        """
        loss, _ = losses(model, tokens, targets, keys)
        torch.clear_autocast_cache()
        again, *_ = self.step(_tensors(tokens, targets, keys))
        with torch.autocast(loss.device.type, enabled=False):
            wanted, got = (
                torch.autograd.grad(each, self._weights, allow_unused=True) for each in (loss, again)
            )
        if any((one is None) != (two is None) for one, two in zip(wanted, got, strict=True)):
            raise CannotCapture("other weights have gradients when it is replayed")
        off = _norm(
            one - two for one, two in zip(got, wanted, strict=True) if one is not None and two is not None
        )
        size = _norm(each for each in wanted if each is not None)
        before, after = float(loss.detach()), float(again.detach())
        # also false for nan
        if not (abs(after - before) <= _LOSS_OFF * max(1.0, abs(before)) and off <= _GRADIENTS_OFF * size):
            raise CannotCapture(
                f"its replay is off: loss {after:.6g} instead of {before:.6g}, gradients by {off:.3g} of a "
                f"norm of {size:.3g}"
            )
        self.proved = True


def _norm(tensors: Iterator[Tensor]) -> float:
    return float(torch.stack([each.detach().double().norm() for each in tensors]).norm())


@contextmanager
def _buffers_kept(model: ModelCore) -> Iterator[None]:
    """Restore the counters that passes in the context change, such as loads of experts."""
    before = [(each, each.clone()) for each in model.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for each, kept in before:
                each.copy_(kept)


def _tensors(tokens: Tensor, targets: Tensor, keys: Keys) -> list[Tensor]:
    return [tokens, targets, *(each for drawn in keys for each in drawn if isinstance(each, Tensor))]


def _put(keys: Keys, tensors: Sequence[Tensor]) -> Keys:
    """Return the same keys with other tensors."""
    left = iter(tensors)
    first, second = ([next(left) if isinstance(x, Tensor) else x for x in drawn] for drawn in keys)
    return first, second
