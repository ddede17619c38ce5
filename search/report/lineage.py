"""The lineage of a trial: its ancestors by the sampler's moves, or the earlier leaders."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from search.progress.state import State
from search.progress.words import shorts
from search.store.ledger import Record


@dataclass(frozen=True)
class Step:
    """One record of the lineage, and the moves that led to it, as text."""

    record: Record
    words: str


def steps(state: State, last: Record) -> Iterator[Step]:
    """Yield the lineage of a record, oldest first."""
    yield from _ancestors(state, last) if last.origin else _leaders(state, last)


def _ancestors(state: State, last: Record) -> Iterator[Step]:
    trials = {record.name: record for record in state.ledger if record.kind == "trial"}
    ancestors: dict[str, Record] = {}
    waiting = [last.name]
    for name in waiting:
        if name in trials and name not in ancestors:
            ancestors[name] = trials[name]
            waiting += map(str, trials[name].origin.get("parents", ()))
    for name in sorted(ancestors, key=int):
        origin = ancestors[name].origin
        parents = " and ".join(map(str, origin.get("parents", ())))
        moves = ", ".join(map(str, origin.get("moves", ()))) or "as proposed"
        yield Step(ancestors[name], f"from {parents}: {moves}" if parents else moves)


def _leaders(state: State, last: Record) -> Iterator[Step]:
    """Yield every trial up to the last that was the best so far in the primary objective, then the last."""
    leader: Record | None = None
    for record in sorted(state.ledger.trials(), key=lambda each: int(each.name)):
        if record.status != "finished" or int(record.name) > int(last.name):
            continue
        if leader is None or _first(state, record) > _first(state, leader):
            yield Step(
                record, "the first one trained in full" if leader is None else _changes(leader, record)
            )
            leader = record
    if leader is not None and leader is not last:
        yield Step(last, f"the winner: {_changes(leader, last)}")


def _first(state: State, record: Record) -> float:
    assert record.values is not None
    return state.goals.ascending(record.values)[state.goals.first_measured]


def _changes(before: Record, after: Record) -> str:
    names = list(dict.fromkeys([*before.params, *after.params]))
    called = shorts(names)
    old, new = ({name: each.params.get(name, "unused") for name in names} for each in (before, after))
    changed = [f"{called[name]} {old[name]} to {new[name]}" for name in names if old[name] != new[name]]
    return ", ".join(changed) or "no search parameter"
