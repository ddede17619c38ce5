"""A search on the terminal: a live table, or plain lines where there is no terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from composer.costs.units import count_text, duration
from composer.spec.load import load
from search.folder import BEST, LEADERBOARD
from search.leaderboard import ranked
from search.ledger import Record
from search.longer import longer
from search.state import Event, State
from search.words import STATUS, knobs_text, named, titled, value_text, values_text

_REFRESH = 0.25
_ROWS = 10
_DAY = 86_400


class Lines:
    """Watches a search in plain lines: one for each run that ends."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def __call__(self, event: Event, state: State) -> None:
        """Print what ended."""
        if event == "begin":
            done = len(state.done())
            self._print(f"{state.progress()} are done" if done else _goals(state))
        elif event == "started" and state.running is not None:
            self._print(f"{titled(state, state.running)}: {knobs_text(state.running)}")
        elif event == "ended" and state.running is not None:
            record = state.running
            self._print(f"{titled(state, record)}: {_result(state, record)}; {_progress(state)}")

        elif event == "note":
            self._print(state.note)

    def _print(self, text: str) -> None:
        self._console.print(Text(text), soft_wrap=True)


class LiveTable:
    """Watches a search in a table that is drawn again as it goes; a context manager."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._drawn = 0.0

    def __enter__(self) -> LiveTable:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def __call__(self, event: Event, state: State) -> None:
        """Draw, some times a second at most while a run goes on."""
        now = time.monotonic()
        if event in ("progress", "proposed") and now - self._drawn < _REFRESH:
            return
        self._drawn = now
        self._live.update(picture(state), refresh=True)


def picture(state: State) -> Group:
    """Draw the state: the run in progress, the best so far, counts and time left."""
    told = [Text(_progress(state)), Text(counts(state), "dim")]
    return Group(*_running(state), results(state, _ROWS), *told, *([Text(state.note)] if state.note else []))


def results(state: State, rows: int) -> Table:
    """Draw the best records as a table; those on the front are marked."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("trial", no_wrap=True)
    table.add_column("status", no_wrap=True)
    for name in ["tokens", *state.goals.names, "params"]:
        table.add_column(name, justify="right", no_wrap=True)
    # the one column that may give way, so the others stay readable
    table.add_column("knobs")
    front = {record.identity for record in state.front()}
    shown = [record for record in ranked(state) if record.status != "running"]
    for record in shown[:rows]:
        best = record.identity in front
        name = f"{'*' if best else ' '} {named(state, record)}"
        values = [value_text(*pair) for pair in zip(state.goals.names, record.values or (), strict=False)]
        values += ["-"] * (len(state.goals.names) - len(values))
        cells = [name, record.status, count_text(record.tokens), *values]
        table.add_row(
            *cells,
            count_text(record.costs["params"]),
            Text(knobs_text(record), no_wrap=True, overflow="ellipsis"),
            style="bold" if best else "red" if record.status == "crashed" else "",
        )
    return table


def counts(state: State) -> str:
    """Say what became of the trials, and how many candidates were costed to find them."""
    done = state.done()
    ends = {status: sum(record.status == status for record in done) for status in ("finished", "stopped")}
    crashed = sum(record.status == "crashed" for record in done)
    told = f", {crashed} crashed" if crashed else ""
    return (
        f"{len(done)} trials: {ends['finished']} trained in full, {ends['stopped']} stopped at a rung{told}; "
        f"{state.drawn.costed} candidates costed, {100 * state.drawn.share:.0f} % refused (over a cap or "
        f"invalid); {state.outcomes['repeat']} proposals repeated"
    )


def summary(folder: Path, state: State, reason: str) -> Iterator[str]:
    """Say how a search ended: counts, the winner against the best baseline, how to train it again, longer."""
    yield f"{reason[0].upper()}{reason[1:]}."
    yield counts(state)
    winner = state.winner()
    if winner is None:
        yield "no trial was trained in full, so there is no winner"
        return
    yield f"winner: {named(state, winner)} with {values_text(state, winner)}: {knobs_text(winner)}"
    yield _against(state, winner)
    yield f"leaderboard: {folder / LEADERBOARD}"
    yield f"train it again, longer: {train_longer(folder)}"


def train_longer(folder: Path) -> str:
    """Return the command that trains the winner of a search again, longer."""
    spec = folder / BEST / "spec.yaml"
    return longer(spec, load(spec))


def _against(state: State, winner: Record) -> str:
    baselines = state.front("baseline")
    if not baselines:
        return "no baseline was trained in full, so there is nothing to compare it with"
    best = baselines[0]
    assert winner.values is not None
    assert best.values is not None
    name = state.goals.names[0]
    difference = state.goals.ascending(winner.values)[0] - state.goals.ascending(best.values)[0]
    word = "better than" if difference > 0 else "worse than" if difference < 0 else "equal to"
    size = f"{abs(difference):.4g} " if difference else ""
    return (
        f"in {name} that is {size}{word} the best baseline, {best.name} with {values_text(state, best)}; "
        "one seed each, so how much of the difference is chance is not known"
    )


def _running(state: State) -> Iterator[Text]:
    record = state.running
    if record is None:
        yield Text("proposing and costing candidates")
    else:
        step = state.step
        loss = "" if step.loss is None else f", loss {step.loss:.3f}"
        rung = f"{len(record.seen)} rungs passed" if record.seen else "first rung"
        tokens = f"{count_text(step.tokens)} of {count_text(state.target)} tokens"
        yield Text(f"{titled(state, record)}: {tokens}{loss}, {rung}", "bold")
        yield Text(knobs_text(record), "dim", overflow="ellipsis", no_wrap=True)
    for other in _elsewhere(state):
        seen = (
            f"{count_text(other.tokens)} tokens at its last rung" if other.seen else "before its first rung"
        )
        told = f"{titled(state, other)} with another worker: {seen}"
        yield Text(told, "dim", overflow="ellipsis", no_wrap=True)


def _elsewhere(state: State) -> list[Record]:
    """Return what other workers train, as far as this one knows."""
    own = state.running.identity if state.running else None
    return [each for each in state.ledger.every() if each.status == "running" and each.identity != own]


def _progress(state: State, now: datetime | None = None) -> str:
    """Say how much of the budget is used, how long the rest takes and when that will be."""
    told = state.progress()
    left = state.seconds_left()
    if not left:
        return told
    # each worker trains one at a time
    left /= 1 + len(_elsewhere(state))
    end = (now or datetime.now()) + timedelta(seconds=left)
    when = end.strftime("%H:%M" if left < _DAY else "%Y-%m-%d %H:%M")
    return f"{told}, about {duration(left)} left, until {when}"


def _goals(state: State) -> str:
    goals = " and ".join(f"{goal.direction} {goal.metric}" for goal in state.goals.objectives)
    return f"{goals}: {state.progress()}"


def _result(state: State, record: Record) -> str:
    if record.status == "crashed":
        return f"crashed: {record.reason}"
    how = f"{STATUS[record.status]} after {count_text(record.tokens)} tokens"
    return f"{how}, {values_text(state, record)}, {duration(record.seconds)}"
