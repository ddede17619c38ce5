"""`composer new`: a commented spec to start from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

PANEL = "Specs"
EXAMPLE = "composer new dreamer --out my-dreamer.yaml"
STARTERS = {path.stem: path for path in sorted((Path(__file__).parents[1] / "starters").glob("*.yaml"))}
"""The starter specs by name: every YAML file of the folder `composer/cli/starters`."""


def new(
    kind: Annotated[
        str, typer.Argument(metavar="|".join(STARTERS), help="The starter spec.", show_default=False)
    ],
    out: Annotated[
        str | None,
        typer.Option(
            "--out", metavar="FILE", help="Write it to a file instead of printing it.", show_default=False
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
) -> None:
    """Print or write a starter spec in which a comment explains each field.

    It trains on a CPU in minutes. `space` is a search space; the others are specs of one model.
    """
    if kind not in STARTERS:
        raise typer.BadParameter(f"expected one of {', '.join(STARTERS)}, got {kind!r}", param_hint="kind")
    if force and out is None:
        raise typer.BadParameter("needs --out", param_hint="--force")
    text = STARTERS[kind].read_text(encoding="utf-8")
    if out is None:
        print(text, end="")
        return
    from composer.cli.terminal.files import write
    from composer.settings.errors import UserError

    if os.path.lexists(out) and not force:
        raise UserError(f"{out} exists; choose another file or replace it with --force")
    write(out, text)
    print(f"written to {out}")
