"""What is wrong with a spec, said once, in words, with its place."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

_LONGEST = 60


@dataclass(frozen=True)
class Fault:
    """One fault: where (file and line, or the `--set` option), which key, expected, got, a hint.

    `line` and `column` count from 1; 0 means that the place has no lines, as an option has none.
    """

    file: str
    line: int
    column: int
    path: str
    expected: str
    got: str
    hint: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        told = f"expected {self.expected}, got {self.got}" + (f" ({self.hint})" if self.hint else "")
        return f"{place}  {self.path}: {told}" if self.path else f"{place}  {told}"


class SpecError(ValueError):
    """A spec that cannot be used, with every fault found in it."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        assert self.faults
        super().__init__(self.faults)

    def __str__(self) -> str:
        return "\n".join(map(str, self.faults))


def shown(value: Any) -> str:
    """Name a value in an error: scalars as YAML writes them, text in quotes, anything else by its kind."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case str():
            text = repr(value)
            return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 4]}...'"
        case dict():
            return "a mapping" if value else "an empty mapping"
        case list() | tuple():
            return "a list" if value else "an empty list"
        case int() if abs(value) >= 10**_LONGEST:
            return "a very large number"
        case _:
            return str(value)


def close(name: Any, names: Iterable[str]) -> str:
    """Hint at the names most like `name`, or at nothing."""
    word, known = str(name)[:_LONGEST], list(names)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.85) or difflib.get_close_matches(
        word, known, n=2
    )
    return f"did you mean {' or '.join(near)}?" if near else ""


def listed(names: Iterable[Any], last: str = "or") -> str:
    """Write `a, b or c`."""
    words = [str(name) for name in names]
    return f" {last} ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)
