"""The results of a search: tables of trials and finals, `best/` with the winner, `front/` with the front."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from composer.language.load import load
from composer.measures.registry import MEASURES
from composer.settings.errors import SpecError
from composer.training.folder.files import write_text
from composer.training.folder.run_folder import SPEC
from search.compare.rungs import best_first
from search.progress.state import State
from search.progress.verdict import Verdicts
from search.progress.winners import put_best, put_front
from search.progress.words import by_name, parameter_names, titled
from search.store.folder import BEST, FRONT, LEADERBOARD
from search.store.ledger import Record

FINALS, STANDINGS, ASKED, CHOICE = "finals.csv", "standings.csv", "asked.json", "winner.txt"
_ORDER = ("finished", "stopped", "crashed", "running")


def publish(folder: Path, state: State) -> None:
    """Write the tables, and `best/` and `front/` if they changed; each file and folder atomically."""
    write_text(folder / LEADERBOARD, leaderboard(state))
    if state.ledger.finals():
        write_text(folder / FINALS, finals(folder, state))
        write_text(folder / STANDINGS, standings(state))
    _remember(folder / ASKED, state)
    best = state.best_run()
    if best is not None:
        put_best(folder, best)
        _explain(folder / BEST / CHOICE, state)
    put_front(folder, state.front())


def _explain(path: Path, state: State) -> None:
    """Write which trial `best/` holds and why, and where the knee of the front is."""
    verdicts, knee = Verdicts(state), state.knee()
    assert verdicts.winner is not None
    text = f"winner: {titled(state, verdicts.winner)}, {verdicts.rule}\n"
    if knee is not None:
        text += f"knee of the front: {titled(state, knee)}, in {FRONT}/{knee.name}\n"
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)


def leaderboard(state: State) -> str:
    """Write all records as CSV, the best first; `front` is 1 on the Pareto front, `knee` at its knee."""
    front, knee = {record.identity for record in state.front()}, state.knee()
    goals, parameters = state.goals.names, parameter_names(state.ledger)
    costs = [name for name in MEASURES if name not in goals]
    head = [
        "trial",
        "kind",
        "status",
        "front",
        "knee",
        "rung",
        "tokens",
        *goals,
        *costs,
        "seconds",
        *parameters,
    ]
    rows = []
    for record in ranked(state):
        kind = "baseline" if state.is_baseline(record) else record.kind
        cells: list[Any] = [record.name, kind, record.status]
        cells += [int(record.identity in front), int(record is knee)]
        cells += [len(record.seen), record.tokens, *_values(state, record)]
        cells += [record.costs.get(name, "") for name in costs]
        cells += [f"{record.seconds:.1f}", *(record.params.get(name, "") for name in parameters)]
        rows.append([*cells, record.folder, _line(record.reason), record.imported])
    return _csv([*head, "folder", "reason", "imported"], rows)


def finals(folder: Path, state: State) -> str:
    """Write the runs of finals as CSV, by the record they retrain; `lr` and `seed` as in their specs."""
    head = [
        "trial",
        "kind",
        "lr_multiple",
        "fresh_seed",
        "lr",
        "seed",
        "status",
        "tokens",
        *state.goals.names,
    ]
    rows = []
    for record in sorted(state.ledger.finals(), key=lambda each: _place(state, each)):
        base = state.base(record)
        kind = "baseline" if state.is_baseline(base) else base.kind
        cells: list[Any] = [base.name, kind, record.again["lr"], record.again["seed"]]
        cells += [*_trained_with(folder / record.folder / SPEC), record.status, record.tokens]
        cells += [*_values(state, record), f"{record.seconds:.1f}", record.folder, _line(record.reason)]
        rows.append(cells)
    return _csv([*head, "seconds", "folder", "reason"], rows)


def standings(state: State) -> str:
    """Write the results of finalists and baselines as CSV: rate, seeds, mean and spread of each objective."""
    verdicts, goals = Verdicts(state), state.goals.names
    head = ["trial", "kind", "winner", "lr_multiple", "seeds", "crashed", "left"]
    rows = []
    for at in verdicts.standings.values():
        kind = "baseline" if state.is_baseline(at.base) else at.base.kind
        cells: list[Any] = [
            at.base.name,
            kind,
            int(at.base is verdicts.winner),
            "" if at.lr is None else at.lr,
        ]
        columns = (at.mean or ("",) * len(goals), at.spread or ("",) * len(goals))
        pairs = [value for pair in zip(*columns, strict=True) for value in pair]
        rows.append([*cells, len(at.runs), at.crashed, at.left, *pairs])
    return _csv([*head, *(f"{name}{end}" for name in goals for end in ("", "_spread"))], rows)


def _csv(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([head, *rows])
    return out.getvalue()


def _values(state: State, record: Record) -> list[Any]:
    """Return the cells of the objectives; integer costs are written as integers."""
    values = by_name(state, record)
    whole = {name: int(value) for name, value in values.items() if name in MEASURES and value == int(value)}
    return [whole.get(name, values.get(name, "")) for name in state.goals.names]


def _place(state: State, record: Record) -> tuple[Any, ...]:
    base = state.base(record)
    number = int(base.name) if base.kind == "trial" else 0
    return state.is_baseline(base), number, base.name, record.again["seed"], record.again["lr"]


def _line(text: str) -> str:
    return " ".join(text.split())


def _trained_with(path: Path) -> tuple[Any, Any]:
    """Return learning rate and seed of a spec; empty if there is none yet."""
    try:
        return _rate_and_seed(path)
    except SpecError:
        return "", ""


@lru_cache(maxsize=1024)
def _rate_and_seed(path: Path) -> tuple[float, int]:
    train = load(path).train
    assert train is not None
    return train.lr, train.seed


def _remember(path: Path, state: State) -> None:
    """Write the current settings, budgets and finals included, for reports that are written later."""
    text = state.config.model_dump_json(indent=1) + "\n"
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)


def ranked(state: State) -> list[Record]:
    """Sort records: trained in full before stopped, then by front, then by the first objective."""
    ordered: list[Record] = []
    for status in _ORDER:
        group = [record for record in state.ledger if record.status == status]
        ordered += _ranked(state, group)
    return ordered


def _ranked(state: State, group: list[Record]) -> Iterator[Record]:
    """Sort records of one status; those that trained longer come first."""
    # with rungs in FLOPs a cheap candidate passes fewer of them; trained in full, it counts as such
    far = [math.inf if record.status == "finished" else len(record.seen) for record in group]
    for reached in sorted(set(far), reverse=True):
        level = [record for record, came in zip(group, far, strict=True) if came == reached]
        if not reached:
            yield from level
            continue
        yield from best_first(state.goals, level)
