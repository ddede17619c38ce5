"""Ending the workers of a command when the command is asked to end."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from composer.training.processes.interrupt import SIGNALS
from search.run.crew import Crew
from search.run.worker_process import GRACE

STOPPING = "stopping: the workers save their runs; Ctrl-C again ends them at once"


class Interruption:
    """The signals that this process received, and the requests sent to workers because of them."""

    def __init__(self) -> None:
        self._received = 0
        self._since: float | None = None
        self._killed = False

    @property
    def began(self) -> bool:
        """Whether the workers were asked to end."""
        return self._since is not None

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Note a signal."""
        self._received += 1

    def pass_on(self, workers: Crew) -> bool:
        """Ask the workers to save and end at a first signal; kill them at a second one or after `GRACE`.

        Returns whether they were asked just now.
        """
        begins = self._received > 0 and self._since is None
        if begins:
            self._since = time.monotonic()
            workers.stop()
        late = self._since is not None and time.monotonic() - self._since > GRACE
        if (self._received > 1 or late) and not self._killed:
            self._killed = True
            workers.kill()
        return begins


@contextmanager
def interruption() -> Iterator[Interruption]:
    """Collect signals that would end this process (`SIGNALS`), if this is its main thread."""
    signals = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return
    before: dict[int, Any] = {}
    for each in SIGNALS:
        if signal.getsignal(each) not in (signal.SIG_IGN, None):
            before[each] = signal.signal(each, signals.receive)
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
