"""The progress of a search on the terminal: a live table, or plain lines without a terminal."""

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

from composer.costs.base.units import count_text, duration
from composer.costs.matching.residuals import percent
from composer.language.load import load
from composer.training.folder.run_folder import SPEC
from search.progress.continue_command import longer
from search.progress.leaderboard import FINALS, ranked
from search.progress.state import Event, State
from search.progress.verdict import Comparison, Verdicts
from search.progress.words import (
    STATUS,
    by_name,
    mean_text,
    moved_text,
    named,
    parameters_text,
    plural,
    seeds_text,
    titled,
    value_text,
    values_text,
)
from search.store.folder import BEST, LEADERBOARD
from search.store.ledger import ENDED, Record

_REFRESH = 0.25
_PAUSE = 10.0
"""The pause after drawing a large search, as a multiple of the time that it took."""
_ROWS = 10
_WIDE = 100
_NAME = len("* 99, knee")
"""Columns that the names of trials have at least."""
_NARROW = 70
_OTHER_LINES = 12
"""Lines of the live table other than its rows: headings, finals, counts, a note."""
_DAY = 86_400


class Lines:
    """Prints a line for each run that ends."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def __call__(self, event: Event, state: State) -> None:
        """Print what ended."""
        if event == "begin":
            done = len(state.done())
            self._print(f"{state.progress()} are done" if done else _goals(state))
        elif event == "started" and state.running is not None:
            self._print(f"{titled(state, state.running)}: {parameters_text(state.running)}")
        elif event == "ended" and state.running is not None:
            record = state.running
            self._print(f"{titled(state, record)}: {_result(state, record)}; {_progress(state)}")
        elif event in ("note", "taken_over"):
            self._print(state.note)

    def _print(self, text: str) -> None:
        self._console.print(Text(text), soft_wrap=True)


class LiveTable:
    """A table of the search that is redrawn while it runs; a context manager."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._drawn = self._took = 0.0

    def __enter__(self) -> LiveTable:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def __call__(self, event: Event, state: State) -> None:
        """Draw, at most a few times per second while runs are in progress, less often if it takes long."""
        began = time.monotonic()
        least = _REFRESH if event in ("progress", "proposed") else 0.0
        if event not in ("begin", "note", "end") and began - self._drawn < max(least, _PAUSE * self._took):
            return
        # a table taller than the terminal would lose its end
        height, width = self._live.console.height, self._live.console.width
        rows = max(1, min(_ROWS, height - len(state.local) - _OTHER_LINES))
        self._live.update(picture(state, rows, width), refresh=True)
        self._drawn = time.monotonic()
        self._took = self._drawn - began


def picture(state: State, rows: int = _ROWS, width: int = _WIDE) -> Group:
    """Draw the state: runs in progress, the best so far, counts and time left."""
    footer = [_wrapped(_progress(state))]
    footer += [_wrapped(text, "dim") for text in (counts(state), *_moved(state))]
    running = [workers_table(state)] if state.local else _own_run(state)
    shown = any(doing.note and state.note.endswith(doing.note) for doing in state.local.values())
    note = [_wrapped(state.note)] if state.note and not shown else []
    return Group(*running, *_elsewhere_lines(state), results(state, rows, width), *footer, *note)


def _wrapped(text: str, style: str = "") -> Text:
    """Return text wrapped at the width of the terminal, whatever its console does with lines."""
    return Text(text, style, no_wrap=False, overflow="fold")


def _cut(text: str, style: str = "") -> Text:
    """Return text that is cut with an ellipsis at the end of its column."""
    return Text(text, style, no_wrap=True, overflow="ellipsis")


def results(state: State, rows: int, width: int = _WIDE) -> Group:
    """Draw the best records as a table with those on the front marked, then the finals.

    A terminal of less than `_WIDE` columns shows no search parameters, of `_NARROW` no `params`.
    """
    tables = [_board(state, rows, width), *([_finals(state)] if state.ledger.finals() else [])]
    return Group(*tables)


def _board(state: State, rows: int, width: int) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    # names and parameters may be cut, so that the figures stay readable, but numbers of trials are whole
    table.add_column("trial", min_width=_NAME)
    table.add_column("status", no_wrap=True)
    for name in ["tokens", *state.goals.names, *["params"] * (width >= _NARROW)]:
        table.add_column(name, justify="right", no_wrap=True)
    if width >= _WIDE:
        table.add_column("search parameters")
    front, knee = {record.identity for record in state.front()}, state.knee()
    shown = [record for record in ranked(state) if record.status != "running"]
    for record in shown[:rows]:
        best = record.identity in front
        name = f"{'*' if best else ' '} {named(state, record)}{', knee' if record is knee else ''}"
        values = by_name(state, record)
        cells = [value_text(goal, values[goal]) if goal in values else "-" for goal in state.goals.names]
        row: list[Text | str] = [_cut(name), record.status, count_text(record.tokens), *cells]
        row += [count_text(record.costs["params"])] if width >= _NARROW else []
        row += [_cut(parameters_text(record))] if width >= _WIDE else []
        table.add_row(
            *row,
            style="bold" if best else "red" if record.status == "crashed" else "",
        )
    return table


def _finals(state: State) -> Table:
    """Draw the results of retrained finalists and baselines: mean and spread over seeds."""
    verdicts = Verdicts(state)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("trained again", no_wrap=True)
    for name in ["rate", "seeds", *state.goals.names]:
        table.add_column(name, justify="right", no_wrap=True)
    for at in verdicts.standings.values():
        best = at.base is verdicts.winner
        means = [mean_text(each.metric, each.value, each.spread) for each in verdicts.results(at.base)]
        cells = means if at.runs else ["-"] * len(means)
        rate = "-" if at.lr is None else f"x{at.lr:g}"
        name = f"{'*' if best else ' '} {named(state, at.base)}"
        table.add_row(name, rate, seeds_text(at), *cells, style="bold" if best else "")
    return table


def counts(state: State) -> str:
    """Return the outcomes of the trials, and how many candidates were costed to find them, as text."""
    ends = {status: state.ledger.digest.count("trial", status) for status in ENDED}
    crashed = f", {ends['crashed']} crashed" if ends["crashed"] else ""
    trials = plural(sum(ends.values()), "trial")
    return (
        f"{trials}: {ends['finished']} trained in full, {ends['stopped']} stopped at a "
        f"rung{crashed}; {plural(state.drawn.costed, 'candidate')} costed, "
        f"{100 * state.drawn.share:.0f} % refused (over a cap or invalid); "
        f"{plural(state.outcomes['repeat'], 'proposal')} repeated"
    )


def _moved(state: State) -> list[str]:
    """Return a sentence for each retired rung."""
    return [moved_text(state, rung) for rung in sorted(state.ledger.digest.spared)]


def summary(folder: Path, state: State, reason: str) -> Iterator[str]:
    """Summarize a search: counts, the winner against the best baseline, the command that trains it longer."""
    yield f"{reason[0].upper()}{reason[1:]}."
    yield counts(state)
    yield from _moved(state)
    verdicts = Verdicts(state)
    winner = verdicts.winner
    if winner is None:
        yield "no trial was trained in full, so there is no winner"
        return
    scores = ", ".join(f"{each.metric} {each.text}" for each in verdicts.results(winner))
    yield f"winner: {named(state, winner)} with {scores}: {parameters_text(winner)}"
    yield f"chosen by: {verdicts.rule}"
    yield from _against(verdicts)
    knee = state.knee()
    if knee is not None:
        yield f"knee of the front: {named(state, knee)} with {values_text(state, knee)}"
    yield f"leaderboard: {folder / LEADERBOARD}"
    if state.ledger.finals():
        yield f"finals: {folder / FINALS}"
    yield f"train it again, longer: {train_longer(folder)}"


def train_longer(folder: Path) -> str:
    """Return the command that trains the winner of a search again, longer."""
    spec = folder / BEST / SPEC
    return longer(spec, load(spec))


def _against(verdicts: Verdicts) -> Iterator[str]:
    """Compare the winner with the best baseline; empty in a search without baselines."""
    rival = verdicts.rival
    if rival is None:
        if verdicts.state.has_baselines():
            yield "no baseline was trained in full, so there is no comparison"
        return
    comparisons = verdicts.final()
    scores = ", ".join(f"{each.other.metric} {each.other.text}" for each in comparisons)
    yield f"best baseline: {rival.name} with {scores}"
    yield f"the winner against it: {'; '.join(map(_difference, comparisons))}"
    if verdicts.uneven:
        yield f"note: {verdicts.uneven}"


def _difference(comparison: Comparison) -> str:
    """Format a difference from the best baseline: `accuracy 0.02 better (permutation test: p = 0.10)`."""
    if comparison.verdict == "cost" and comparison.other.value:
        return f"{comparison.one.metric} {percent(100 * (comparison.one.value / comparison.other.value - 1))}"
    return f"{comparison.one.metric} {comparison.size}" + (
        f" ({comparison.doubt})" if comparison.doubt else ""
    )


def _own_run(state: State) -> Iterator[Text]:
    record = state.running
    if record is None:
        yield Text("proposing and costing candidates")
    else:
        step = state.step
        loss = "" if step.train_loss is None else f", train loss {step.train_loss:.3f}"
        tokens = f"{count_text(step.tokens)} of {count_text(state.target)} tokens"
        yield Text(f"{titled(state, record)}: {tokens}{loss}{_rung(state, record)}", "bold")
        yield Text(parameters_text(record), "dim", overflow="ellipsis", no_wrap=True)


def workers_table(state: State) -> Table:
    """Draw the activity of each local worker."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("worker", no_wrap=True)
    table.add_column("trains", min_width=12)
    for name in ("tokens", "train loss"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("rungs", justify="right", no_wrap=True)
    table.add_column("search parameters")
    for number, doing in state.local.items():
        record = doing.record
        if record is None:
            table.add_row(str(number), _cut(doing.note or "proposing", "dim"))
            continue
        tokens = "starting"
        # before that the process may still be importing torch
        if doing.target:
            tokens = f"{count_text(doing.step.tokens)} of {count_text(doing.target)}"
        loss = "" if doing.step.train_loss is None else f"{doing.step.train_loss:.3f}"
        rungs = "" if record.kind == "final" or not state.config.marks else str(len(record.seen))
        table.add_row(
            *(str(number), _cut(titled(state, record)), tokens, loss, rungs),
            _cut(parameters_text(record), "dim"),
        )
    return table


def _elsewhere_lines(state: State) -> Iterator[Text]:
    for other in _elsewhere(state):
        seen = f"{count_text(other.tokens)} tokens at its last rung" if other.seen else ""
        seen = seen or ("before its first rung" if _rung(state, other) else "training")
        text = f"{titled(state, other)} with another worker: {seen}"
        yield Text(text, "dim", overflow="ellipsis", no_wrap=True)


def _rung(state: State, record: Record) -> str:
    if record.kind == "final" or not state.config.marks:
        return ""
    return f", {plural(len(record.seen), 'rung')} passed" if record.seen else ", first rung"


def _elsewhere(state: State) -> list[Record]:
    """Return what workers elsewhere are training, as far as is known."""
    at_work = [state.running, *(doing.record for doing in state.local.values())]
    own = {record.identity for record in at_work if record is not None}
    return [each for each in state.ledger.running() if each.identity not in own]


def _progress(state: State, now: datetime | None = None) -> str:
    """Return the used share of the budget, the time left and the time of the end, as text."""
    text = state.progress()
    left = state.seconds_left()
    if not left:
        return text
    # each worker trains one at a time
    own = sum(doing.record is not None for doing in state.local.values())
    left /= max(1, own) + len(_elsewhere(state))
    end = (now or datetime.now()) + timedelta(seconds=left)
    when = end.strftime("%H:%M" if left < _DAY else "%Y-%m-%d %H:%M")
    return f"{text}, about {duration(left)} left, until {when}"


def _goals(state: State) -> str:
    goals = " and ".join(f"{goal.direction} {goal.metric}" for goal in state.goals.objectives)
    return f"{goals}: {state.progress()}"


def _result(state: State, record: Record) -> str:
    if record.status == "crashed":
        return f"crashed: {record.reason}"
    how = f"{STATUS[record.status]} after {count_text(record.tokens)} tokens"
    return f"{how}, {values_text(state, record)}, {duration(record.seconds)}"
