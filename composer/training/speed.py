"""The speed of a run, and the remaining time."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_REPORTS = 25
"""Number of reports over which the speed is averaged."""


class Speed:
    """Measures training tokens per second, without the time of evaluations and checkpoints."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began: float | None = None
        self._pauses = 0.0
        self._trained: deque[tuple[float, int]] = deque(maxlen=_REPORTS)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the time within the context from the speed."""
        before = self._clock()
        try:
            yield
        finally:
            self._pauses += self._clock() - before

    def at(self, tokens: int) -> None:
        """Record the number of tokens read so far."""
        now = self._clock()
        self._began = now if self._began is None else self._began
        self._trained.append((now - self._pauses, tokens))

    @property
    def tokens_per_second(self) -> float | None:
        """Training tokens per second over the last reports; None if unknown."""
        if not self._trained:
            return None
        (first, before), (last, tokens) = self._trained[0], self._trained[-1]
        return (tokens - before) / (last - first) if last > first and tokens > before else None

    def seconds_for(self, tokens: int) -> float | None:
        """Return how long `tokens` more will take, assuming the same share of pauses as so far."""
        speed = self.tokens_per_second
        if speed is None or self._began is None:
            return None
        training = self._trained[-1][0] - self._began
        return tokens / speed * (1 + self._pauses / training if training > 0 else 1)
