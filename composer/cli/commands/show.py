"""`composer show`: a spec in full, or only what differs from the defaults."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from composer.cli.terminal.options import Set, SpecFile

if TYPE_CHECKING:
    from composer.language.schema.spec import Spec

PANEL = "Specs"
EXAMPLE = "composer show specs/looped.yaml --resolved"


def show(
    file: SpecFile,
    settings: Set = None,
    resolved: Annotated[
        bool, typer.Option("--resolved", help="Show where each value comes from: file, option or default.")
    ] = False,
    changed: Annotated[
        bool, typer.Option("--changed", help="Print only values that differ from the default or have none.")
    ] = False,
) -> None:
    """Print a spec in full: extended, set, computed, with every default.

    What is printed is itself a spec that loads to the same thing. On a terminal, what differs from the
    defaults stands out. Comments at the top name what is not causal in training.
    """
    from composer.language.description.causality import not_causal
    from composer.language.description.show import changed_yaml, resolved_yaml
    from composer.language.load import load

    if resolved and changed:
        raise typer.BadParameter("expected one of --resolved and --changed", param_hint="--changed")
    spec = load(file, settings or ())
    for warning in not_causal(spec):
        print(f"# {warning}")
    if changed:
        print(changed_yaml(spec), end="")
    elif sys.stdout.isatty():
        _highlighted(spec, resolved)
    else:
        print(resolved_yaml(spec, origins=resolved), end="")


def _highlighted(spec: Spec, origins: bool) -> None:
    from rich.text import Text

    from composer.cli.terminal.console import console
    from composer.language.description.show import resolved_lines

    out = console()
    for line in resolved_lines(spec, origins):
        style = {True: "bold", False: "dim", None: ""}[line.changed]
        out.print(Text.assemble((line.text, style), (line.origin, "cyan" if line.changed else "dim")))
