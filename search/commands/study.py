"""`composer study`: train the arms of a study, or judge what was trained."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from composer.cli.terminal.options import Set
from search.commands.launch_options import Address, Launch, LauncherName

PANEL = "Search"
EXAMPLE = "composer study specs/studies/hop.yaml --report"


def study(
    file: Annotated[str, typer.Argument(metavar="STUDY", help="The study, a YAML file.", show_default=False)],
    settings: Set = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The folder of runs and report, instead of `runs/study-NAME`."),
    ] = None,
    rows: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.jsonl",
            help="The file of results, made to be committed; what it has is not trained again. Default: "
            "rows.jsonl in the folder.",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Processes that train side by side. By default as many as `composer search` "
            "starts; 1 trains in this process.",
            show_default=False,
        ),
    ] = None,
    launcher: LauncherName = "local",
    address: Address = None,
    launch: Launch = None,
    storage: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="A database for records and leases, `postgresql://...`, instead of the folder.",
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print the result only.")] = False,
    report: Annotated[
        bool, typer.Option("--report", help="Train nothing: judge the results so far and write the report.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print the arms, their residuals and what is due; train nothing."),
    ] = False,
) -> None:
    """Compare arms fairly: equal costs, rates tuned alike, several seeds and budgets, verdicts on claims.

    Every arm is trained at every learning rate, then at its best rate with fresh seeds; one run serves all
    budgets. Each result is a row of a file that can be committed, from which a study goes on anywhere. The
    same command resumes a study that was interrupted or killed; given again while one runs, it joins in.
    The report has tables, figures, a page that works offline and a verdict on each claim.
    """
    from composer.cli.terminal.console import console
    from search.launch.launcher import asked
    from search.study.load import load_study

    where = asked(launcher, address, launch)
    where.checked()
    loaded = load_study(file, settings or ())
    folder = out or loaded.folder
    path = rows or folder / "rows.jsonl"
    screen = console()
    from search.study.command import dry_lines, note_stale, train_all, write_all

    if dry_run:
        print("\n".join(dry_lines(loaded, path)))
        return
    note_stale(loaded, path)
    try:
        if not report:
            train_all(loaded, folder, path, storage, workers, quiet, screen, where)
    except KeyboardInterrupt:
        print(
            f"interrupted; run the same command again to continue (everything is in {folder})",
            file=sys.stderr,
        )
        raise typer.Exit(130) from None
    write_all(loaded, folder, path, screen)
