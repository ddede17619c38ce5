"""`composer first-run`: check, test and measure a new GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

PANEL = "Models and kernels"
EXAMPLE = "composer first-run --out h100"


def first_run(
    out: Annotated[
        str,
        typer.Option(
            "--out", metavar="FOLDER", help="Where results and the record of finished jobs are written."
        ),
    ] = "first-run",
    only: Annotated[
        str,
        typer.Option(
            metavar="JOBS",
            help="Only these: doctor, routing, step, depth, tiles, graph, tests, attention, loss, kernels.",
            show_default=False,
        ),
    ] = "",
    minutes: Annotated[
        float, typer.Option(min=0.5, help="Time limit of this call; the next call resumes.")
    ] = 9.0,
) -> None:
    """Check and measure a new GPU in calls of a few minutes, the most important things first.

    Runs the kernel self-tests, the parts of `composer bench`, the tuning of tiles and the tests marked `gpu`
    (in a checkout), each with a time limit. Run again with the same folder it resumes. After each job it
    writes all results as tables (first-run.md); tiles.patch puts the tiles found into their tables. Needs no
    packages besides torch, triton, lightning, networkx, pyyaml, typer, rich and pydantic.
    """
    from composer.bench.first_run import STATE, TABLES, jobs, run_jobs, tables
    from composer.cli.terminal.files import make_folder, write

    folder, root = Path(out).absolute(), Path(__file__).parents[4]
    asked = every = jobs(folder, root)
    if wanted := {name.strip() for name in only.split(",") if name.strip()}:
        if unknown := wanted - {job.name for job in asked}:
            expected = ", ".join(job.name for job in asked)
            raise typer.BadParameter(f"expected jobs of {expected}, got {', '.join(sorted(unknown))}")
        asked = [job for job in asked if job.name in wanted]
    make_folder(folder)

    def written() -> None:
        write(str(folder / TABLES), "\n".join(tables(folder, every)) + "\n")

    whole = run_jobs(asked, folder, 60 * minutes, lambda text: print(text, flush=True), root, written)
    written()
    print(f"tables: {folder / TABLES}\noutput of each job: {folder / STATE}")
    if not whole:
        print("not finished: run the same command again")
        raise typer.Exit(2)
