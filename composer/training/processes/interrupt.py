"""Signals that ask a training to end: recorded when they arrive, handled at the end of an optimizer step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)


class Interrupted(Exception):
    """Training was asked to stop, and is at the end of an optimizer step."""


class Stop:
    """Whether this process was asked to end its training.

    Attributes:
        asked: set by a signal, or from outside.
    """

    def __init__(self) -> None:
        self.asked = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Record a first signal of each kind; a second one has its usual effect.

        Signals that are ignored stay ignored (SIGHUP under nohup). Only the main thread can listen.

        Raises:
            KeyboardInterrupt: the training ended because of a signal.
        """
        before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            handlers = {number: signal.getsignal(number) for number in SIGNALS}
            # None: a handler that was not installed from Python, and cannot be restored
            before = {n: handler for n, handler in handlers.items() if handler not in (signal.SIG_IGN, None)}

        def note(number: int, frame: FrameType | None) -> None:
            self.asked = True
            signal.signal(number, before[number])

        for number in before:
            signal.signal(number, note)
        try:
            yield
        except (Interrupted, SystemExit):
            raise KeyboardInterrupt from None
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def check(self) -> None:
        """Raise Interrupted if the training was asked to end."""
        if self.asked:
            raise Interrupted


@contextmanager
def held_back() -> Iterator[None]:
    """Block the signals in this thread, and in processes started meanwhile until they `let_through`."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def let_through() -> None:
    """Unblock the signals that were blocked when this process was started."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
