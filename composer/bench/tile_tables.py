"""The tables of measured tiles in `blocks`, and what tuning found as JSON and as a patch of their files."""

from __future__ import annotations

import json
import pkgutil
import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import unified_diff
from importlib import import_module
from itertools import groupby
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import blocks
from blocks.kernels.tiles import Tiles
from composer.settings.errors import UserError, os_message

_SAME = 1.02
"""A tile that is less faster than this is within the noise: the derived one stays."""


_FIELDS = ("table", "shape", "tile", "right", "tried", "faster")


class Table(NamedTuple):
    """A table of measured tiles: its module, its name there, and what kernels ask for tiles."""

    module: ModuleType
    name: str
    tiles: Tiles[Any, Any]

    @property
    def key(self) -> str:
        """The module and the name."""
        return f"{self.module.__name__}.{self.name}"


class TunedTile(NamedTuple):
    """The best tile of one shape, how many were tried and right, and how much faster the work is by it.

    With `right` 0 the tile that is in use does not equal the reference, and none was timed.
    """

    table: Table
    shape: Any
    tile: Any
    right: int
    tried: int
    faster: float

    @property
    def key(self) -> tuple[str, str]:
        """The table and the shape, as text."""
        return self.table.key, repr(self.shape)

    def __str__(self) -> str:
        if not self.right:
            return f"{self.table.key}: {self.shape}: {self.tile} is in use and WRONG"
        return (
            f"{self.table.key}: {self.shape}: {self.tile} "
            f"({self.faster:.2f}x, {self.right} of {self.tried} right)"
        )


def tables() -> list[Table]:
    """Return all tables."""
    tables = []
    for each in pkgutil.walk_packages(blocks.__path__, "blocks."):
        if each.name.endswith(".tiles"):
            module = import_module(each.name)
            held = [one for one in vars(module).values() if isinstance(one, Tiles)]
            for name, measured in vars(module).items():
                tables += [Table(module, name, one) for one in held if one.measured is measured]
    return tables


Rows = Sequence[Mapping[str, Any]]
"""What was found, as plain data."""


def as_rows(measured: Sequence[TunedTile], before: Rows = ()) -> Rows:
    """Return what was found, after what an earlier call found."""
    rows = [
        {
            "table": each.table.key,
            "shape": repr(each.shape),
            "tile": repr(each.tile),
            "right": each.right,
            "tried": each.tried,
            "faster": round(each.faster, 3),
        }
        for each in measured
    ]
    return [*before, *rows]


def as_json(rows: Rows) -> str:
    """Return rows as JSON."""
    return json.dumps(rows, indent=1) + "\n"


def read_json(path: Path) -> Rows:
    """Return the rows of an earlier call; none where there is no file.

    Raises:
        UserError: it cannot be read, or is another file.
    """
    try:
        rows = json.loads(path.read_text("utf-8"))
        return [{name: row[name] for name in _FIELDS} for row in rows]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(os_message(error, path)) from None
    except (ValueError, TypeError, KeyError):
        raise UserError(
            f"{path}: expected the tiles of `composer bench --tune`, got something else"
        ) from None


def patch(rows: Rows, device: str) -> Iterator[str]:
    """Yield the lines of a patch for `git apply` that puts tiles into their tables.

    Tiles that are wrong, or no faster than the one in use, are left out.
    """
    kept = [row for row in rows if row["right"] and row["faster"] >= _SAME]
    by_module = groupby(tables(), key=lambda table: table.module)
    for module, group in by_module:
        path = Path(str(module.__file__))
        old = path.read_text("utf-8")
        new = old
        for table in group:
            own = [row for row in kept if row["table"] == table.key]
            new = _filled(new, table, own, device) if own else new
        place = f"{module.__name__.replace('.', '/')}.py"
        before, after = (text.splitlines(keepends=True) for text in (old, new))
        yield from unified_diff(before, after, f"a/{place}", f"b/{place}")


def _filled(source: str, table: Table, rows: Rows, device: str) -> str:
    """Return the source of a module with entries added to one of its tables, replacing those of a shape."""
    entries = {repr(shape): repr(tile) for shape, tile in table.tiles.measured.items()}
    entries |= {row["shape"]: row["tile"] for row in rows}
    body = "".join(f"    {shape}: {tile},\n".replace("'", '"') for shape, tile in entries.items())
    head = re.compile(rf"^({table.name}: .* = \{{)(?:\n(?:    .*\n)*)?\}}$", re.MULTILINE)
    filled, count = head.subn(
        lambda match: f"{match[1]}\n    # measured on {device}\n{body}}}", source, count=1
    )
    assert count == 1, f"{table.key} is not written as a table"
    return filled
