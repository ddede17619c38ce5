"""Writing what a search leaves for its readers: tables, the winner, the front; by one worker at a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from composer.language.schema.spec import Spec
from search.progress.leaderboard import publish
from search.progress.state import State
from search.propose.specs import bring_specs
from search.store.folder import LEADERBOARD, PUBLISH
from search.store.ledger import Record
from search.store.locks import exclusive
from search.store.store import Store

_FEW = 200
"""Number of records up to which everything is written after each run."""
_PAUSE = 20.0
"""With more of them, the pause after writing, as a multiple of the time that it took."""


class Publisher:
    """Writes them into the folder of a search."""

    def __init__(
        self, folder: Path, state: State, store: Store, spec_of: Callable[[Record], Spec | None]
    ) -> None:
        self._folder, self._state, self._store, self._spec_of = folder, state, store, spec_of

    def __call__(self, at_last: bool = False) -> None:
        """Write everything; of a large search only now and then, unless this is the last time.

        Of workers that wait for each other, one writes what all of them know.
        """
        if not at_last and self._is_early():
            return
        path = self._folder / PUBLISH
        before, _ = _last(path)
        with exclusive(path):
            written, _ = _last(path)
            # the first that ended meanwhile may have begun before; the second knew all that is known here;
            # 0 is also what is read while another one writes the number
            if 0 < before < written - 1 or (not at_last and self._is_early()):
                return
            began = time.monotonic()
            ledger = self._state.ledger
            ledger.refresh()
            self._store.export(ledger.every())
            bring_specs(self._folder, ledger.every(), self._spec_of)
            publish(self._folder, self._state)
            path.write_text(f"{written + 1}\n{time.monotonic() - began}\n", encoding="utf-8")

    def _is_early(self) -> bool:
        path = self._folder / LEADERBOARD
        if self._state.ledger.count() <= _FEW or not path.exists():
            return False
        # where the clocks of this machine and of the file system differ, it is not early
        took = _last(self._folder / PUBLISH)[1]
        return 0 <= time.time() - path.stat().st_mtime < _PAUSE * took


def _last(path: Path) -> tuple[int, float]:
    """Return how often everything was written and how long that took the last time, as the lock file says."""
    try:
        count, took, *_ = [*path.read_text(encoding="utf-8").split(), "0", "0"]
        return int(count), float(took)
    except (OSError, ValueError):
        return 0, 0.0
