"""`composer show`: a spec as it is written, or in full."""

from __future__ import annotations

from typing import Annotated

import typer

from composer.cli.options import Set, SpecFile


def show(
    file: SpecFile,
    settings: Set = None,
    resolved: Annotated[
        bool, typer.Option("--resolved", help="Add where each value came from: a file, an option, a default.")
    ] = False,
) -> None:
    """Print a spec in full: extended, set, computed, with every default.

    What is printed is itself a spec that loads to the same thing.
    """
    from composer.spec.load import load
    from composer.spec.show import resolved_yaml

    print(resolved_yaml(load(file, settings or ()), origins=resolved), end="")
