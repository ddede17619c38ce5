"""`composer first-run`: all that a new GPU is asked once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

PANEL = "Models and kernels"
EXAMPLE = "composer first-run --out h100"


def first_run(
    out: Annotated[
        str, typer.Option("--out", metavar="FOLDER", help="Where figures and the record of what is done go.")
    ] = "first-run",
    only: Annotated[
        str,
        typer.Option(
            metavar="JOBS",
            help="Only these: doctor, depth, step, routing, tests, attention, loss, kernels, tiles.",
            show_default=False,
        ),
    ] = "",
    minutes: Annotated[
        float, typer.Option(min=0.5, help="How long this call may take; given again, it goes on.")
    ] = 9.0,
) -> None:
    """Check and measure a new GPU in calls of a few minutes, the most important things first.

    These are the kernels' self-tests, the parts of `composer bench`, the tests marked `gpu` (in a checkout),
    and tiles for this GPU. Each has a time limit of its own. Given again with the same folder, it goes on
    with what has not ended; then it writes all figures as tables (first-run.md). It needs no package besides
    torch, triton, lightning, networkx, pyyaml, typer, rich and pydantic.
    """
    from composer.bench.first_run import STATE, TABLES, jobs, run_jobs, tables
    from composer.cli.terminal.files import make_folder, write

    folder, root = Path(out).absolute(), Path(__file__).parents[4]
    asked = jobs(folder, root)
    if wanted := {name.strip() for name in only.split(",") if name.strip()}:
        if unknown := wanted - {job.name for job in asked}:
            expected = ", ".join(job.name for job in asked)
            raise typer.BadParameter(f"expected jobs of {expected}, got {', '.join(sorted(unknown))}")
        asked = [job for job in asked if job.name in wanted]
    make_folder(folder)
    whole = run_jobs(asked, folder, 60 * minutes, lambda text: print(text, flush=True), root)
    write(str(folder / TABLES), "\n".join(tables(folder, asked)) + "\n")
    print(f"figures in {folder / TABLES}, what was printed in {folder / STATE}")
    if not whole:
        print("not finished: give the same command again")
        raise typer.Exit(2)
