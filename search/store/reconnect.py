"""Waiting for a store that cannot be reached."""

from __future__ import annotations

import time
from collections.abc import Callable

from search.errors import SearchError
from search.store.store import Store


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
        error: the one that told of it.
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
