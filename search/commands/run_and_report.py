"""A search run from the command line: live progress, then a summary."""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import optuna
from rich.console import Console

from composer.language.space import Space
from search.launch.launcher import Asked, Need
from search.progress.events import Events
from search.progress.state import Event, State, Watch, silent
from search.progress.table import Lines, LiveTable, results, summary
from search.propose.requirements import check_search
from search.report.write import write_report
from search.run.crew import Plan
from search.run.import_progress import Arriving, shown, unseen
from search.run.importing import bring_in, read_old
from search.run.open_store import check_storage
from search.run.study import Outcome, run_search
from search.run.supervise import run_workers, runs_left
from search.run.worker_plan import sample_of
from search.store.folder import PUBLISH, default_folder, older
from search.store.locks import exclusive

LOCAL = Asked()

_ROWS = 20


class Stopped(KeyboardInterrupt):
    """The search was interrupted; the text says how to resume it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"interrupted; run the same command again to continue (everything is in {folder})")


def run(
    space: Space,
    out: Path | None,
    quiet: bool,
    screen: Console,
    storage: str | None = None,
    olds: Sequence[Path] = (),
    workers: int | None = None,
    launcher: Asked = LOCAL,
) -> None:
    """Search `space` in `out` or its own folder, and print to `screen` how it ended.

    Results of the searches in `olds` are imported first. `workers` is the number of processes: by default
    as many as the launcher's machines have room for.
    """
    folder = _ready(space, out, storage)
    with nullcontext(unseen) if quiet else shown(screen) as show_import:
        notes = _imported(space, folder, out, storage, olds, show_import)
    for note in () if quiet else notes:
        screen.print(note, soft_wrap=True, markup=False, highlight=False)
    plan = launcher.plan(_need(space, folder, storage), workers)
    if not quiet:
        print(f"searching in {folder}" + ("" if plan.here else f" with {plan}"), flush=True)
    if plan.note:
        print(plan.note, file=sys.stderr)
    if quiet:
        ended = _search(space, folder, plan, silent, storage)
    elif screen.is_terminal:
        with LiveTable(screen) as table:
            ended = _search(space, folder, plan, table, storage)
    else:
        ended = _search(space, folder, plan, Lines(screen), storage)
    report = _report(ended)
    screen.print(results(ended.state, _ROWS, screen.width))
    for line in summary(ended.folder, ended.state, ended.reason):
        screen.print(line, soft_wrap=True, markup=False)
    if report is not None:
        screen.print(f"report: {report}", soft_wrap=True, markup=False)


def run_events(
    space: Space,
    out: Path | None,
    storage: str | None = None,
    olds: Sequence[Path] = (),
    workers: int | None = None,
    launcher: Asked = LOCAL,
) -> None:
    """Search `space` in `out` or its own folder, and print nothing but events, as JSON lines.

    Results of the searches in `olds` are imported first; `workers` as in `run`.
    """
    folder = _ready(space, out, storage)
    notes = _imported(space, folder, out, storage, olds)
    plan = launcher.plan(_need(space, folder, storage), workers)
    events = Events(sys.stdout, folder, space.name)
    notes += [plan.note] if plan.note else []
    ended = _search(space, folder, plan, _noting(events, notes), storage)
    events.end(ended.state, ended.reason, _report(ended))


def _search(space: Space, folder: Path, plan: Plan, watch: Watch, storage: str | None) -> Outcome:
    """Search in this process or in worker processes; if interrupted, say how to resume."""
    try:
        if plan.here:
            return run_search(space, folder, watch=watch, storage=storage)
        ended = run_workers(space, folder, plan, watch=watch, storage=storage)
    except KeyboardInterrupt:
        raise Stopped(folder) from None
    for failure in ended.failures:
        print(failure, file=sys.stderr)
    return ended


def _need(space: Space, folder: Path, storage: str | None) -> Need:
    return Need(partial(runs_left, space, folder, storage), partial(sample_of, space))


def _ready(space: Space, out: Path | None, storage: str | None) -> Path:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # the command line starts without; a search makes and drops many models
    gc.enable()
    if storage is not None:
        check_storage(storage)
    check_search(space)
    return out or default_folder(space)


def _imported(
    space: Space,
    folder: Path,
    out: Path | None,
    storage: str | None,
    olds: Sequence[Path],
    show_import: Arriving = unseen,
) -> list[str]:
    """Import the searches asked for, or name those that could be; return the notes to print."""
    if olds:
        # all are read before anything is made
        read = [read_old(old, folder) for old in olds]
        return [str(tally) for tally in bring_in(space, folder, read, storage, show_import)]
    note = older(folder, space) if out is None else None
    return [note] if note else []


def _noting(watch: Watch, notes: Sequence[str]) -> Watch:
    """Print notes right after a search has started."""

    def noting(event: Event, state: State) -> None:
        watch(event, state)
        if event == "begin":
            for note in notes:
                state.note = note
                watch("note", state)

    return noting


def _report(ended: Outcome) -> Path | None:
    """Write the report; a failure is printed and leaves the search intact."""
    try:
        # several workers may end at once
        with exclusive(ended.folder / PUBLISH):
            return write_report(ended.folder, seen=ended.state)
    except Exception as error:
        cause = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        print(
            f"{ended.folder}: the report could not be written ({cause}); the search itself is whole, and "
            f"`composer report {ended.folder}` tries again",
            file=sys.stderr,
        )
        return None
