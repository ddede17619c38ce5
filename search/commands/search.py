"""`composer search`: start a search, or resume one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from composer.cli.terminal.options import Set
from search.commands.launch_options import Address, Launch, LauncherName

PANEL = "Search"
EXAMPLE = "composer search specs/space.yaml --trials 8"


def search(
    file: Annotated[str, typer.Argument(metavar="SPACE", help="The space, a YAML file.", show_default=False)],
    settings: Set = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The search folder, instead of `runs/<name>-<identity>`."),
    ] = None,
    trials: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Trials, in place of search.trials.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Processes that search side by side. By default one for each GPU of this machine, else as "
            "many as its CPU cores and memory have room for; 1 searches in this process.",
            show_default=False,
        ),
    ] = None,
    launcher: LauncherName = "local",
    address: Address = None,
    launch: Launch = None,
    storage: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="A database for records and study, `postgresql://...`, instead of the folder."
        ),
    ] = None,
    olds: Annotated[
        list[Path] | None,
        typer.Option(
            "--import",
            metavar="OLD",
            help="The folder of another search, whose results are imported first if they are points of this "
            "space. May be repeated.",
            show_default=False,
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print the result only.")] = False,
    events: Annotated[bool, typer.Option("--json", help="Print only JSON lines, one per event.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Cost random points and train nothing.")] = False,
) -> None:
    """Search a space for its best specs: propose, cost, train in rungs, keep the best.

    All cores and GPUs of this machine are used (`--workers`), or those of a cluster (`--launcher`). The same
    command resumes a search that was interrupted or killed; given again while one runs, on any machine that
    sees the folder or the database, it joins with workers of its own. The folder holds every trial,
    `leaderboard.csv`, the winner in `best/`, the Pareto front in `front/` and a report, `report.html`.
    """
    from composer.language.space import load_space
    from search.launch.launcher import asked

    where = asked(launcher, address, launch)
    where.checked()
    chosen = [*(settings or ()), *([] if trials is None else [f"search.trials={trials}"])]
    space = load_space(file, chosen)
    if dry_run:
        if olds:
            raise typer.BadParameter("brings results in, which --dry-run does not", param_hint="--import")
        from search.run.preview import check_start, preview

        check_start(space, out, storage)
        print("\n".join(preview(space, trials or 300).lines()))
        return
    from composer.cli.terminal.console import console
    from search.commands.run_and_report import run, run_events

    try:
        if events:
            run_events(space, out, storage, olds or (), workers, where)
        else:
            run(space, out, quiet, console(), storage, olds or (), workers, where)
    except KeyboardInterrupt as stopped:
        print(
            stopped if str(stopped) else "interrupted; run the same command again to continue",
            file=sys.stderr,
        )
        raise typer.Exit(130) from None
