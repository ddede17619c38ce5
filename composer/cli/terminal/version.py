"""`composer --version`."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from typing import Annotated

import typer


def _print_version(wanted: bool) -> None:
    if wanted:
        import composer

        try:
            version = composer.__version__
        except PackageNotFoundError:
            version = "(not installed)"
        print(f"attention-composer {version}")
        raise typer.Exit


def composer(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Take what comes before a command."""
