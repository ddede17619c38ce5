"""Calls to programs of a cluster that may never answer, in threads of their own."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent import futures
from concurrent.futures import Future
from threading import Thread
from typing import Generic, TypeVar

T = TypeVar("T")


def within(seconds: float, call: Callable[[], T]) -> T:
    """Return what a call returns; one that takes longer is left to itself.

    Raises:
        TimeoutError: it takes longer.
    """
    return _begun(call).result(seconds)


class Question(Generic[T]):
    """A question that is asked again and again, never twice at the same time.

    Attributes:
        answer: the last answer.
    """

    def __init__(self, ask: Callable[[], T], answer: T) -> None:
        self._ask, self.answer = ask, answer
        self._asked: Future[T] | None = None
        self._since = 0.0

    def latest(self, wait: float) -> T:
        """Ask, and return the answer if it comes within `wait` seconds, else the last one.

        Raises:
            Exception: what the question raised.
        """
        if self._asked is None:
            self._asked, self._since = _begun(self._ask), time.monotonic()
        if futures.wait([self._asked], wait).done:
            asked, self._asked = self._asked, None
            self.answer = asked.result()
        return self.answer

    @property
    def silence(self) -> float:
        """Seconds for which the answer has been awaited; 0 where none is."""
        return time.monotonic() - self._since if self._asked else 0.0


def _begun(call: Callable[[], T]) -> Future[T]:
    made: Future[T] = Future()

    def run() -> None:
        try:
            made.set_result(call())
        except BaseException as error:
            made.set_exception(error)

    Thread(target=run, daemon=True).start()
    return made
