"""What a search leaves: `leaderboard.csv`, the winner in `best/`, and all of the front in `front/`."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from composer.spec.search_config import COSTS
from composer.training.files import write_text
from search.folder import LEADERBOARD
from search.ledger import Record
from search.rungs import fronts
from search.state import State
from search.winners import put_best, put_front

_ORDER = ("finished", "stopped", "crashed", "running")


def publish(folder: Path, state: State) -> None:
    """Write the leaderboard, and `best/` and `front/` where they have changed; each file and folder whole."""
    write_text(folder / LEADERBOARD, leaderboard(state))
    best = state.best_run()
    if best is not None:
        put_best(folder, best)
    put_front(folder, state.front())


def leaderboard(state: State) -> str:
    """Write all records as CSV, the best first; `front` is 1 for those trained in full that none beats."""
    front = {record.identity for record in state.front()}
    knobs = list(dict.fromkeys(name for record in state.ledger for name in record.params))
    costs = [name for name in COSTS if name not in state.goals.names]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    head = ["trial", "kind", "status", "front", "rung", "tokens", *state.goals.names]
    writer.writerow([*head, *costs, "seconds", *knobs, "folder", "reason"])
    for record in ranked(state):
        pairs = zip(state.goals.names, record.values or (), strict=False)
        values: list[Any] = [int(value) if name in COSTS else value for name, value in pairs]
        values = values or [""] * len(state.goals.names)
        kind = "baseline" if state.is_baseline(record) else record.kind
        cells: list[Any] = [record.name, kind, record.status, int(record.identity in front)]
        cells += [len(record.seen), record.tokens, *values]
        cells += [record.costs.get(name, "") for name in costs]
        cells += [f"{record.seconds:.1f}", *(record.params.get(name, "") for name in knobs)]
        writer.writerow([*cells, record.folder, " ".join(record.reason.split())])
    return out.getvalue()


def ranked(state: State) -> list[Record]:
    """Sort records: trained in full before stopped, then by front, then by the first objective."""
    found: list[Record] = []
    for status in _ORDER:
        group = [record for record in state.ledger if record.status == status]
        found += _ranked(state, group)
    return found


def _ranked(state: State, group: list[Record]) -> Iterator[Record]:
    """Sort records of one status; those that came further come first."""
    for reached in sorted({len(record.seen) for record in group}, reverse=True):
        level = [record for record in group if len(record.seen) == reached]
        if not reached:
            yield from level
            continue
        values = [state.goals.ascending(record.seen[-1].values) for record in level]
        order = sorted(zip(fronts(values), values, range(len(level)), strict=True), key=_by_front)
        yield from (level[i] for _, _, i in order)


def _by_front(item: tuple[int, tuple[float, ...], int]) -> tuple[Any, ...]:
    front, values, i = item
    return (front, *(-value for value in values), i)
