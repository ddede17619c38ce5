"""The work of `composer study`: training with progress, then the report."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

from rich.console import Console

from composer.costs.base.units import count_text
from composer.costs.matching.residuals import percent
from composer.settings.errors import os_message
from search.errors import SearchError
from search.launch.launcher import Asked
from search.run.open_store import check_storage
from search.study.load import Study
from search.study.plan import Plan
from search.study.report import PAGE, lines, write_report
from search.study.rows import read_rows, stale
from search.study.run import run_study, silent
from search.study.terminal import Terminal
from search.study.workers import need, run_workers


def dry_lines(study: Study, rows: Path) -> Iterator[str]:
    """Yield the arms, how far their costs are from the base's, and what is due."""
    plan, known = Plan(study), read_rows(rows)
    for arm in study.arms:
        costs = ", ".join(f"{each.measure} {percent(each.percent)}" for each in arm.residuals)
        yield f"{arm.title}: {costs}; distance {arm.distance:.2f}; changed: {arm.changes}"
    due = list(plan.due(known))
    runs, config = plan.size(), study.config
    yield f"{plan.results(known).done()} of {runs} runs are done; {len(due)} can begin now"
    trunk, *_ = sorted(config.budgets, reverse=True)
    branches = sum(config.decay * budget for budget in config.budgets[:-1])
    each = trunk + branches
    yield f"a run reads {count_text(each)} tokens, all runs {count_text(runs * each)}"


def note_stale(study: Study, rows: Path) -> None:
    """Say on stderr which rows of the file are not used, since their arm has changed."""
    known = read_rows(rows)
    plan = Plan.judging(study, known)
    unused = stale(plan.current(known), plan.cells(), study.config.arms)
    for name, count in unused.items():
        noun = "row is" if count == 1 else "rows are"
        print(
            f"{rows}: {count} {noun} not used: {name} was trained with another spec, data, rate, seed or "
            "budget than the study has now",
            file=sys.stderr,
        )


def train_all(
    study: Study,
    folder: Path,
    rows: Path,
    storage: str | None,
    workers: int | None,
    quiet: bool,
    screen: Console,
    launcher: Asked,
) -> None:
    """Train what is due, with this number of workers; by default as many as there is room for."""
    if storage is not None:
        check_storage(storage)
    gc.enable()  # the command line starts without; a study makes and drops many models
    plan = launcher.plan(need(study, rows), workers)
    if not quiet:
        where = "" if plan.here else f" with {plan}"
        print(f"training in {folder}{where}, results in {rows}", flush=True)
    if plan.note:
        print(plan.note, file=sys.stderr)
    with nullcontext(silent) if quiet else Terminal(screen, study.config.measure) as watch:
        if plan.here:
            run_study(study, folder, rows, watch=watch, storage=storage)
        else:
            run_workers(study, folder, rows, plan, watch, storage)


def write_all(study: Study, folder: Path, rows: Path, screen: Console) -> None:
    """Write the report into the folder and print the verdicts.

    Raises:
        SearchError: it cannot be written.
    """
    try:
        results = write_report(study, folder, rows)
    except OSError as error:
        raise SearchError(os_message(error, error.filename or folder, writing=True)) from None
    for line in lines(results):
        screen.print(line, soft_wrap=True, markup=False)
    screen.print(f"report: {folder / PAGE}", soft_wrap=True, markup=False)
