"""How long one run takes: by the wall's clock, or by the GPU's own for what lasts microseconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch

Run = Callable[[], object]

_FLUSHED = 256 << 20
"""Bytes written before each run, several times what the caches of a GPU hold."""
_LONGEST = 0.05
"""Seconds that the GPU is kept busy at most while a run is queued."""
_PROBE = 10_000_000
"""Cycles by which the length of a cycle is measured."""


class Clock(Protocol):
    """Runs something once and returns the seconds it took."""

    def __call__(self, run: Run) -> float:
        """Time one run."""
        ...


def wall(run: Run) -> float:
    """Time a run from its call until the device is done: what whoever waits for it sees."""
    _wait()
    begun = time.perf_counter()
    run()
    _wait()
    return time.perf_counter() - begun


class DeviceClock:
    """Times what a run keeps a GPU busy, between two of its own events.

    The caches are flushed before. The GPU is kept spinning until all of the run is queued, so that Python
    and the driver, which take longer than a small kernel, are not what is measured. A run that waits for the
    GPU itself cannot be queued: its waits count.
    """

    def __init__(self) -> None:
        self._flushed = torch.empty(_FLUSHED, dtype=torch.uint8, device="cuda")
        self._queued: WeakKeyDictionary[Run, float] = WeakKeyDictionary()
        _spin(_PROBE)
        self._cycles = _PROBE / _between(lambda: _spin(_PROBE))

    def __call__(self, run: Run) -> float:
        """Time one run."""
        ahead = self._queued.get(run)
        if ahead is None:
            # a second time, once everything is compiled and allocated
            run()
            ahead = self._queued[run] = min(1.5 * _queueing(run) + 1e-4, _LONGEST)
        self._flushed.zero_()
        _spin(int(ahead * self._cycles))
        return _between(run)


def without_gradients(function: Callable[..., object], *given: Any) -> Run:
    """Return a call that records no gradients."""

    def run() -> object:
        with torch.no_grad():
            return function(*given)

    return run


def clock_of(device: torch.device) -> Clock:
    """Return the clock for kernels on a device."""
    return DeviceClock() if device.type == "cuda" else wall


def _between(run: Run) -> float:
    begun, ended = _event(), _event()
    begun.record()
    run()
    ended.record()
    ended.synchronize()
    return float(begun.elapsed_time(ended)) / 1e3


def _event() -> Any:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def _spin(cycles: int) -> None:
    torch.cuda._sleep(cycles)  # type: ignore[no-untyped-call]


def _queueing(run: Run) -> float:
    """Return how long a run keeps whoever calls it, with nothing before it in the queue."""
    _wait()
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
