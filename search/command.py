"""A search from the command line: watched, then summed up."""

from __future__ import annotations

import gc
from pathlib import Path

import optuna
from rich.console import Console

from composer.spec.space import Space
from search.folder import default_folder
from search.open_store import check_storage
from search.state import silent
from search.study import Outcome, run_search
from search.table import Lines, LiveTable, results, summary
from search.trainer import check_metrics

_ROWS = 20


def run(space: Space, out: Path | None, quiet: bool, screen: Console, storage: str | None = None) -> None:
    """Search `space` in `out` or its own folder, and print to `screen` how it ended."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # the command line starts without; a search makes and drops many models
    gc.enable()
    if storage is not None:
        check_storage(storage)
    check_metrics(space)
    folder = out or default_folder(space)
    if not quiet:
        print(f"searching in {folder}")
    if quiet:
        ended = run_search(space, folder, watch=silent, storage=storage)
    elif screen.is_terminal:
        with LiveTable(screen) as table:
            ended = run_search(space, folder, watch=table, storage=storage)
    else:
        ended = run_search(space, folder, watch=Lines(screen), storage=storage)
    _print(ended, screen)


def _print(ended: Outcome, screen: Console) -> None:
    screen.print(results(ended.state, _ROWS))
    for line in summary(ended.folder, ended.state, ended.reason):
        screen.print(line, soft_wrap=True, markup=False)
