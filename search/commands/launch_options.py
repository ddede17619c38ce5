"""The options of `composer search` and `composer study` for where workers run."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import typer

LauncherName: TypeAlias = Annotated[
    str,
    typer.Option(
        "--launcher",
        metavar="NAME",
        help="Where workers run: local (processes on this machine), ray (tasks on a Ray cluster) or slurm (a "
        "job array).",
    ),
]
Address: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--address", metavar="HOST:PORT", help="The Ray cluster, for --launcher ray.", show_default=False
    ),
]
Launch: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--launch",
        metavar="KEY=VALUE",
        help="An option of the launcher, such as gpus=1. May be repeated.",
        show_default=False,
    ),
]
