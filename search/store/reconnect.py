"""Waiting for a store that cannot be reached."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import TypeVar

from search.errors import SearchError
from search.store.store import Store

Opened = TypeVar("Opened")


def open_patiently(store: Store, opens: Callable[[], Opened], retry: float, poll: float) -> Opened:
    """Open what a caller has in a store; where the store goes away meanwhile, wait for it and open it anew.

    Args:
        opens: called each time the store answers.
        retry: seconds after which the store is given up.
        poll: seconds between two attempts.

    Raises:
        SearchError: it did not answer in time.
    """
    opened: list[Opened] = []
    try:
        return opens()
    except Exception as error:
        if not store.is_lost(error):
            raise
        warnings.warn(store.lost(error, None), stacklevel=2)
        since = time.monotonic()
        reach_again(store, error, since, retry, poll, lambda text: None, lambda: opened.append(opens()))
    return opened[-1]


def reach_again(
    store: Store,
    error: Exception,
    since: float,
    retry: float,
    poll: float,
    note: Callable[[str], None],
    opened: Callable[[], None],
) -> None:
    """Wait until an unreachable store answers again, and open what the caller has in it.

    Args:
        error: the error that showed it.
        since: when it was lost, by the monotonic clock.
        retry: seconds after which it is given up.
        poll: seconds between two attempts.
        note: called with what to tell the user meanwhile.
        opened: called when it answers; it may be lost again then.

    Raises:
        SearchError: it did not answer in time.
    """
    while True:
        if time.monotonic() - since > retry:
            raise SearchError(store.lost(error, retry)) from None
        note(store.lost(error, None))
        time.sleep(poll)
        try:
            store.reopen()
            opened()
            return
        except Exception as again:
            if not store.is_lost(again):
                raise
            error = again
