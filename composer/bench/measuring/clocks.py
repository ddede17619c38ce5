"""Clocks for one run: wall-clock time, or GPU events for runs of microseconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch

Run = Callable[[], object]

_FLUSHED = 256 << 20
"""Bytes written and read before each run, several times the size of a GPU's caches."""
_LONGEST = 0.05
"""Longest time in seconds that the GPU is kept busy while a run is queued."""
_PROBE = 10_000_000
"""Number of cycles used to measure the length of a cycle."""
_AWAKE = 0.3
"""Seconds of work after which an idle GPU runs at its full clock."""


class Clock(Protocol):
    """Runs something once and returns the seconds it took."""

    def __call__(self, run: Run) -> float:
        """Time one run."""
        ...


def wall(run: Run) -> float:
    """Time a run from its call until the device has finished."""
    wait()
    begun = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - begun


class DeviceClock:
    """Times how long a run keeps a GPU busy, between two CUDA events.

    The caches are flushed before. The GPU spins until the whole run is queued, so that Python
    and the driver, which are slower than a small kernel, are not measured; a run that began before
    it was fully queued is repeated after a longer spin. A run that waits for the GPU itself cannot be queued:
    its waits are included.
    """

    def __init__(self) -> None:
        self._flushed, self._read = torch.zeros(2, _FLUSHED, dtype=torch.uint8, device="cuda")
        self._queued: WeakKeyDictionary[Run, float] = WeakKeyDictionary()
        _wake()
        self._cycles = max(_PROBE / _between(lambda: _spin(_PROBE))[0] for _ in range(5))

    def __call__(self, run: Run) -> float:
        """Time one run."""
        ahead = self._queued.get(run)
        if ahead is None:
            # a second time, once everything is compiled and allocated
            run()
            ahead = self._queued[run] = min(1.5 * _queueing(run) + 1e-4, _LONGEST)
        while True:
            self._flushed.zero_()
            # dirty cache lines are written back here, not while the run is timed
            self._read.max()
            _spin(int(ahead * self._cycles))
            seconds, early = _between(run)
            if not early or ahead == _LONGEST:
                return seconds
            ahead = self._queued[run] = min(2 * ahead, _LONGEST)


def without_gradients(function: Callable[..., object], *given: Any) -> Run:
    """Return a call that records no gradients."""

    def run() -> object:
        with torch.no_grad():
            return function(*given)

    return run


def clock_of(device: torch.device) -> Clock:
    """Return the clock for kernels on a device."""
    return DeviceClock() if device.type == "cuda" else wall


def _between(run: Run) -> tuple[float, bool]:
    """Return the seconds of a run, and whether the GPU began before it was fully queued."""
    begun, ended = _event(), _event()
    begun.record()
    run()
    early = bool(begun.query())
    ended.record()
    ended.synchronize()
    return float(begun.elapsed_time(ended)) / 1e3, early


def _wake() -> None:
    x = torch.ones(2048, 2048, device="cuda")
    begun = time.perf_counter()
    while time.perf_counter() - begun < _AWAKE:
        for _ in range(10):
            torch.mm(x, x)
        wait()


def _event() -> Any:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def _spin(cycles: int) -> None:
    torch.cuda._sleep(cycles)  # type: ignore[no-untyped-call]


def _queueing(run: Run) -> float:
    """Return how long a call of a run takes with an empty queue."""
    wait()
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


def wait() -> None:
    """Wait until the GPU, if any, has finished all queued work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
