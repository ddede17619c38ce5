"""Decoding steps replayed from a CUDA graph, one token at a time."""

from __future__ import annotations

import warnings
from typing import Any, NoReturn

import torch
from torch import Tensor

from blocks.kernels.past import KVCache, Past
from composer.module.capture.recorder import (
    CannotCapture,
    CudaGraphChoice,
    CudaGraphs,
    Recorder,
    check_choice,
)
from composer.module.generation.decoder import Decoder
from composer.module.generation.recorded_weights import RecordedWeights
from composer.settings.errors import first_line

_WORTH_CAPTURING = 32
"""Minimum number of new tokens for which recording pays off."""

_OFF = 5e-2
"""Tolerance of replayed logits against those of a plain step, relative to the largest."""


def recorder_for(
    choice: CudaGraphChoice, device: torch.device, new: int, budget: int | None
) -> Recorder | None:
    """Return what records decoding steps if `choice` asks for it, for at most `new` tokens; else None.

    `budget` is the number of cache entries that steps share.

    Raises:
        CannotCapture: `choice` is "on", and the device does not support it.
        ValueError: `choice` is unknown.
    """
    check_choice(choice)
    if choice == "off":
        return None
    recorder: Recorder = CudaGraphs()
    if reason := recorder.refusal(device):
        if choice == "on":
            raise CannotCapture(f"cuda_graph on: {reason}")
        return None
    if choice == "auto" and (new < _WORTH_CAPTURING or budget is not None):
        return None
    return recorder


class RecordedDecoder:
    """A `Decoder` that records one step after the prompt and replays it for each token.

    Attention covers the whole capacity, masked. The first two replays are compared with plain steps, and the
    first one of each later generation. If they differ, or a step cannot be recorded, generation continues
    with plain steps and warns, or raises an error if replays are required.

    Attributes:
        replayed: the number of replayed steps.
    """

    def __init__(self, decoder: Decoder, recorder: Recorder, required: bool) -> None:
        self._decoder, self._recorder, self._required = decoder, recorder, required
        self._precision = _precision()
        self._replay: Any = None
        self._off = False
        self._unproved = 2
        self.replayed = 0

    @property
    def recorded(self) -> bool:
        """Whether it has a recording."""
        return self._replay is not None

    def begin(self, decoder: Decoder, rows: int, required: bool) -> bool:
        """Begin another generation in place of a new decoder if the recording computes the same.

        Returns False if it does not: other code, sizes, precision, or weights at other addresses.
        """
        own = self._decoder
        same = (
            own.code is decoder.code and own.threshold == decoder.threshold and self._tokens.shape[0] == rows
        )
        if not same or own.past.capacity != decoder.past.capacity or self._precision != _precision():
            return False
        if not self._weights.refresh(decoder.weights()):
            return False
        own.past.reset()
        self._required, self._unproved = required, 1
        return True

    @torch.no_grad()
    def __call__(self, tokens: Tensor) -> Tensor:
        """Return logits [batch, vocab] after the last of new tokens [batch, sequence]."""
        past = self._decoder.past
        if not past.position or self._off:
            return self._decoder(tokens)
        if not self._unproved:
            logits = self._replayed(tokens)
        else:
            kept = _Kept(past)
            try:
                logits = self._proved(tokens, kept)
            except (RuntimeError, CannotCapture) as error:  # errors of the driver, of memory or of a kernel
                kept.put_back()
                self._give_up(error)
                return self._decoder(tokens)
            self._unproved -= 1
        self.replayed += 1
        past.position += 1
        return logits

    def _proved(self, tokens: Tensor, kept: _Kept) -> Tensor:
        """Replay a step, recorded at the first call, and compare it with a plain one."""
        if self._replay is None:
            self.record(tokens)
            self._weights = RecordedWeights(self._decoder.weights())
            kept.put_back()
        wanted = self._decoder.following(tokens)
        kept.put_back()
        logits = self._replayed(tokens)
        off = float((logits - wanted).abs().max() / wanted.abs().max())
        if not off <= _OFF:  # also false for nan
            raise CannotCapture(f"logits of a replayed step are off by {off:.3g} of their largest")
        return logits

    def record(self, tokens: Tensor) -> None:
        """Record the step after the prompt, for new tokens [batch, 1].

        Raises:
            CannotCapture: the step is not the same for all tokens.
        """
        past, position = self._decoder.past, self._decoder.past.position
        if past.runs or self._decoder.budget is not None:
            raise CannotCapture("what is kept depends on which tokens a step runs, or was given one by one")
        self._tokens, self._at = tokens.clone(), torch.full((len(tokens),), position, device=tokens.device)
        # a recording would contain the number as a constant
        past.position, past.at = _NoNumber(position), self._at
        try:
            self._recorder.warm_up(self._work)
            (self._logits,), self._replay = self._recorder.record(self._work)
        finally:
            past.position, past.at = position, None

    def _work(self) -> list[Tensor]:
        return [self._decoder.following(self._tokens)]

    def _replayed(self, tokens: Tensor) -> Tensor:
        past = self._decoder.past
        self._tokens.copy_(tokens)
        self._at.fill_(past.position)
        past.at = self._at
        try:
            self._replay()
        finally:
            past.at = None
        return self._logits.clone()

    def _give_up(self, error: Exception) -> None:
        self._replay, self._off = None, True
        reason = first_line(error)
        if self._required:
            raise CannotCapture(f"a CUDA graph cannot hold a decoding step: {reason}") from error
        warnings.warn(f"generation goes on without a CUDA graph: {reason}", stacklevel=2)


class _Kept:
    """The state of a generation except for keys and values, which a token may write twice."""

    def __init__(self, past: Past) -> None:
        self._tensors: list[tuple[Tensor, Tensor]] = []
        self._fields: list[tuple[dict[str, Any], dict[str, Any]]] = []
        for each in past.all_held():
            if isinstance(each, Tensor):
                self._tensors.append((each, each.clone()))
            elif type(each) is not KVCache:
                fields = vars(each)
                self._fields.append((fields, dict(fields)))
                self._tensors += [(x, x.clone()) for x in fields.values() if isinstance(x, Tensor)]

    def put_back(self) -> None:
        """Restore the state in place."""
        for fields, before in self._fields:
            fields.update(before)
        for tensor, values in self._tensors:
            tensor.copy_(values)


def _precision() -> tuple[Any, ...]:
    """Return what a recording depends on besides its tensors: autocast on a GPU and on a CPU."""
    kinds = ("cuda", "cpu")
    return tuple((torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in kinds)


class _NoNumber(int):
    """A position that can be tested for 0, but not compared or computed with.

    Python calls no method of a subclass of int that is used as an index; such a use is found by the
    comparison with plain steps.
    """

    def _refuse(self, *_: Any) -> NoReturn:
        raise CannotCapture("an operation reads the position of a token as a number")

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = _refuse
    __floordiv__ = __mod__ = __lt__ = __le__ = __gt__ = __ge__ = _refuse
