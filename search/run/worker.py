"""Shared by workers of a search and of a study: records behind a lock, and waiting for a lost store."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from search.store.ledger import Ledger, Record
from search.store.reconnect import open_patiently, reach_again
from search.store.store import Store

CRASHES = 3
"""Consecutive crashes of one worker after which it stops."""
POLL = 1.0
"""Seconds between two checks of other workers' progress, while there is nothing else to do."""
RETRY = 600.0
"""Seconds for which an unreachable store is retried."""

_LOOK, _SHARE = 10.0, 200
"""The most seconds between two looks at the other workers, as a multiple of the time that a look takes."""
Result = TypeVar("Result")


def opened(store: Store, opens: Callable[[], Result]) -> Result:
    """Open what a caller has in a store; where the store is lost meanwhile, wait for it and open it anew.

    Raises:
        SearchError: it did not answer in time.
    """
    return open_patiently(store, opens, RETRY, POLL)


class TakenOver(Exception):
    """Another worker considered this one dead and took over its run."""


class Worker:
    """A worker that shares records with others through a store.

    Attributes:
        store: the store.
        me: the worker's name in it.
        ledger: the records.
    """

    def __init__(self, store: Store) -> None:
        self.store, self.me, self.ledger = store, store.worker.name, Ledger(store)
        self._lost_since: float | None = None
        self._present: tuple[float, set[str]] = 0.0, set()

    def note(self, text: str) -> None:
        """Show a message."""
        raise NotImplementedError

    def pause(self) -> None:
        """Wait until the progress of other workers is worth another look."""
        time.sleep(POLL)

    def lost(self) -> None:
        """Forget what was not saved when the store was lost."""

    def reopened(self) -> None:
        """Read the records anew from a store that answers again."""
        self.ledger = Ledger(self.store)

    def repeat(self, work: Callable[[], Result | None]) -> Result:
        """Call `work` until it returns a result; where the store is lost meanwhile, wait for it and go on.

        Raises:
            SearchError: the store did not answer in time.
        """
        while True:
            try:
                result = work()
                if result is not None:
                    return result
                self._lost_since = None
            except Exception as error:
                if not self.store.is_lost(error):
                    raise
                self.lost()
                self._lost_since = self._lost_since or time.monotonic()
                reach_again(self.store, error, self._lost_since, RETRY, POLL, self.note, self.reopened)

    def present(self, named: set[str]) -> set[str]:
        """Return the other live workers as of a moment ago: that much longer, the longer a look takes.

        Args:
            named: the workers in question; if one of them was not seen alive, it is looked for now.
        """
        fresh_until, others = self._present
        began = time.monotonic()
        if began > fresh_until or not named <= {*others, self.me, ""}:
            others = self.store.others()
            now = time.monotonic()
            self._present = now + min(_LOOK, _SHARE * (now - began)), others
        return others

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the store's lock, with freshly read records.

        They are read before it and while waiting, since all others wait while it is held.
        """
        self.ledger.refresh()
        with self.store.lock(self.ledger.refresh):
            self.ledger.refresh()
            yield

    @contextmanager
    def changing(self, record: Record) -> Iterator[None]:
        """Change and save a record that this worker holds.

        Raises:
            TakenOver: another worker holds it.
        """
        with self.alone():
            if self.ledger.find(record.identity) is not record:
                raise TakenOver
            yield
            self.ledger.save(record)
