"""How commands that make a spec hand it over: a report, and the spec in a file or after the report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

if TYPE_CHECKING:
    from composer.language.schema.spec import Spec

Out: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--out", metavar="FILE", help="Write the spec here instead of printing it.", show_default=False
    ),
]
"""The file of a spec that a command makes."""


def columns(rows: Iterable[Sequence[str]]) -> list[str]:
    """Return rows as lines of aligned text: the first column to the left, the others to the right."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def hand_over(spec: Spec, report: Sequence[str], out: str | None) -> None:
    """Print the report and write the spec to `out`; without it print both as one YAML file.

    In YAML the report stands above the spec as comments, so that what is printed loads.
    """
    from composer.cli.terminal.files import write
    from composer.language.description.show import resolved_yaml

    commented = "".join(f"# {line}".rstrip() + "\n" for line in report)
    text = commented + resolved_yaml(spec)
    if out is None:
        print(text, end="")
        return
    write(out, text)
    print("\n".join([*report, f"written to {out}"]))
