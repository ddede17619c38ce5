"""Tables of scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Group


def score_table(
    title: str, rows: dict[str, dict[str, float]], more: Mapping[str, Mapping[str, str]] | None = None
) -> Group:
    """Return a title and a table of scores, one row for each name, with `more` cells of the same rows."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    names = list(dict.fromkeys(name for scores in rows.values() for name in scores))
    for name in names:
        table.add_column(name.removeprefix("accuracy_"), justify="right")
    for name in next(iter(more.values())) if more else ():
        table.add_column(name, justify="right")
    for row, scores in rows.items():
        cells = (f"{scores[name]:.4f}" if name in scores else "" for name in names)
        table.add_row(row, *cells, *(more[row].values() if more else ()))
    # a table would wrap its own title at its width
    return Group(Text(title, "bold", no_wrap=True, overflow="ignore"), table)


def sequences_text(*counts: int) -> str:
    """Return the number of scored sequences as text: `1 sequence`, `171 sequences`, `171 or 85 sequences`."""
    numbers = " or ".join(f"{count:,}" for count in counts)
    return f"{numbers} sequence{'' if counts == (1,) else 's'}"
