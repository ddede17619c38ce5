"""A search as JSON lines, for programs: one object an event, by the names listed in docs/search.md."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

from composer.language.schema.search import FlopRungs
from search.compare.finals import Standing
from search.objectives import Values
from search.progress.state import Event, State
from search.progress.table import train_longer
from search.progress.verdict import Comparison, Verdicts
from search.progress.words import by_name
from search.store.ledger import ENDED, Record

_PAUSE = 1.0
"""Least seconds between two progress lines of one worker."""


class Events:
    """Writes a line for each event of a search; `end` is written separately, once everything is known."""

    def __init__(
        self, stream: TextIO, folder: Path, space: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stream, self._folder, self._space, self._clock = stream, folder, space, clock
        self._written_at: dict[str, float] = {}
        self._outcomes: dict[str, int] = {}

    def __call__(self, event: Event, state: State) -> None:
        """Write what happened."""
        if event == "progress":
            if self._clock() - self._written_at.get(state.worker, -_PAUSE) < _PAUSE:
                return
            self._written_at[state.worker] = self._clock()
        if event == "begin":
            self._write(event, dict(self._facts(event, state)))
        elif event != "end":
            self._write(event, {"worker": state.worker, **dict(self._facts(event, state))})

    def end(self, state: State, reason: str, report: Path | None) -> None:
        """Write how it ended."""
        verdicts = Verdicts(state)
        winner, rival, knee = verdicts.winner, verdicts.rival, state.knee()
        self._write(
            "end",
            {
                "reason": reason,
                "folder": str(self._folder),
                **_counts(state),
                "proposals": dict(state.outcomes),
                "seconds": round(state.spent(), 3),
                "budgets": _budgets(state),
                "moved_rungs": list(_moved(state)),
                "winner": _run(state, winner) if winner else None,
                "rule": verdicts.rule or None,
                "knee": knee.name if knee else None,
                "best_baseline": _run(state, rival) if rival else None,
                "standings": [_standing(state, at) for at in verdicts.standings.values()],
                "uneven": verdicts.uneven or None,
                "verdict": [_comparison(comparison) for comparison in verdicts.final()],
                "front": [record.name for record in state.front()],
                "command": train_longer(self._folder) if winner else None,
                "report": None if report is None else str(report),
            },
        )

    def _facts(self, event: Event, state: State) -> Iterator[tuple[str, Any]]:
        record = state.running
        match event:
            case "begin":
                yield "folder", str(self._folder)
                yield "space", self._space
                goals = state.goals.objectives
                yield "objectives", [{"metric": g.metric, "direction": g.direction} for g in goals]
                yield "rungs", list(state.config.marks)
                yield "rungs_in", "FLOPs" if isinstance(state.config.rungs, FlopRungs) else "tokens"
                yield "baselines", [run.name for run in state.ledger if state.is_baseline(run)]
                yield "sampler", state.config.sampler
                yield "budgets", _budgets(state)
                yield "finalists", state.config.finalists if state.config.retrains else 0
                yield "seeds", state.config.seeds
                yield "lr_sweep", list(state.config.lr_sweep)
                yield from _counts(state).items()
                yield "proposals", dict(state.outcomes)
                self._outcomes = dict(state.outcomes)
            case "proposed":
                now = dict(state.outcomes)
                yield "outcomes", [name for name in now if now[name] > self._outcomes.get(name, 0)]
                yield "proposals", now
                self._outcomes = now
            case "note":
                yield "note", state.note
            case "progress" if record is not None:
                yield "name", record.name
                yield "tokens", state.step.tokens
                yield "target", state.target
                yield "train_loss", state.step.train_loss
                yield "seconds", round(record.seconds, 3)
            case "taken_over" if record is not None:
                yield "name", record.name
                yield "kind", _kind(state, record)
                yield "folder", record.folder
                yield "left_by", state.left_by
                yield "tokens", state.step.tokens
            case "rung" if record is not None:
                yield from _run(state, record).items()
                yield "milestone", len(record.seen)
                yield "metrics", record.seen[-1].metrics
                yield "tau_bound", record.seen[-1].tau_bound
            case "started" | "ended" if record is not None:
                yield from _run(state, record).items()
                yield from _counts(state).items()
                if event == "ended":
                    yield "front", [run.name for run in state.front()]
                    yield "seconds_left", state.seconds_left()
                    yield "budgets", _budgets(state)

    def _write(self, event: str, facts: dict[str, Any]) -> None:
        now = datetime.now().astimezone().isoformat(timespec="milliseconds")
        self._stream.write(json.dumps({"event": event, "time": now, **facts}) + "\n")
        self._stream.flush()


def _counts(state: State) -> dict[str, int | None]:
    finals = state.ledger.finals()
    return {
        "done": state.ledger.digest.count("trial", *ENDED, imported=False),
        "trials": state.config.trials,
        "finals_done": sum(record.status != "running" for record in finals),
        "finals": max(len(finals), state.finals().count()),
    }


def _budgets(state: State) -> list[dict[str, Any]]:
    names = {"by the clock": "seconds"}
    return [
        {
            "name": names.get(each.name, each.name),
            "spent": each.spent,
            "aside": each.aside,
            "limit": each.limit,
        }
        for each in state.accounts()
    ]


def _moved(state: State) -> Iterator[dict[str, Any]]:
    """Yield the retired rungs, each with the first trial that it let pass."""
    for rung, first in sorted(state.ledger.digest.spared.items()):
        bound = first.seen[rung].tau_bound
        yield {"rung": state.config.marks[rung], "since": first.name, "tau_bound": bound}


def _run(state: State, record: Record) -> dict[str, Any]:
    """Return a record by stable names."""
    return {
        "name": record.name,
        "kind": _kind(state, record),
        "status": record.status,
        "reason": record.reason,
        "folder": record.folder,
        "tokens": record.tokens,
        "values": by_name(state, record),
        "params": record.params,
        "costs": record.costs,
        "seconds": round(record.seconds, 3),
        "worker": record.worker,
        "again": record.again or None,
        "imported": record.imported or None,
    }


def _kind(state: State, record: Record) -> str:
    return "baseline" if record.kind == "trial" and state.is_baseline(record) else record.kind


def _standing(state: State, at: Standing) -> dict[str, Any]:
    """Return the results of a retrained record; `mean` and `spread` are over fresh seeds."""
    names = state.goals.names

    def named(values: Values | None) -> dict[str, float] | None:
        return None if values is None else dict(zip(names, values, strict=True))

    return {
        "name": at.base.name,
        "kind": "baseline" if state.is_baseline(at.base) else at.base.kind,
        "sweep": {f"{lr:g}": named(values) for lr, values in at.sweep.items()},
        "lr": at.lr,
        "runs": [run.name for run in at.runs],
        "crashed": at.crashed,
        "left": at.left,
        "mean": named(at.mean),
        "spread": named(at.spread),
    }


def _comparison(comparison: Comparison) -> dict[str, Any]:
    """Compare the winner with the best baseline in one objective."""
    return {
        "metric": comparison.one.metric,
        "winner": comparison.one.value,
        "best_baseline": comparison.other.value,
        "better": comparison.better,
        "p": comparison.p,
        "verdict": comparison.verdict,
    }
