"""What is wrong with a spec, said once, in words, with its place."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

_LONGEST = 60


class UserError(ValueError):
    """An error that the user can fix; the message says what is wrong, where, and what would help.

    The command line prints the message, without a traceback, and exits with 1.
    """


@dataclass(frozen=True)
class Fault:
    """One fault: where (file and line, or the `--set` option), which key, expected, got, a hint.

    `line` and `column` count from 1; 0 means that the place has no lines, as an option has none. Where `got`
    is empty, `expected` holds the whole message; where `file` is, the message names it. `unread`: the value
    is valid, but nothing reads it.
    """

    file: str
    line: int
    column: int
    path: str
    expected: str
    got: str
    hint: str = ""
    unread: bool = False

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        text = f"{self.message} ({self.hint})" if self.hint else self.message
        text = f"{self.path}: {text}" if self.path else text
        return f"{place}  {text}" if place else text

    @property
    def message(self) -> str:
        """The fault without its place and hint."""
        return f"expected {self.expected}, got {self.got}" if self.got else self.expected


class SpecError(UserError):
    """A spec that cannot be used, with every fault found in it."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        assert self.faults
        super().__init__(self.faults)

    def __str__(self) -> str:
        return "\n".join(map(str, self.faults))


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or the name of its type if it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def os_message(error: OSError, path: object = "", *, writing: bool = False) -> str:
    """Say why a file or folder cannot be used: `file not found: specs/x.yaml`.

    `path` is the path as the user gave it; without it the error's own is used. `writing` says that the file
    was to be made, so that what is missing is the directory it would stand in.
    """
    name = str(path or error.filename or "")
    named = f": {name}" if name else ""
    match error:
        case FileNotFoundError():
            return f"directory not found: {os.path.dirname(name)}" if writing else f"file not found{named}"
        case IsADirectoryError():
            return f"expected a file, got a directory{named}"
        case NotADirectoryError():
            return f"part of the path is a file, not a directory{named}"
        case FileExistsError():
            return f"expected a directory, got a file{named}"
        case PermissionError():
            return f"permission denied{named}"
    reason = error.strerror or str(error) or type(error).__name__
    return f"{name}: {reason}" if name else reason


def _flat(value: Any) -> str:
    """Return a short mapping or list of scalars as YAML writes it; "" for any other."""
    pairs = value.items() if isinstance(value, dict) else [("", each) for each in value]
    if len(pairs) > 4 or any(isinstance(each, dict | list | tuple) for _, each in pairs):
        return ""
    items = [f"{key}: " * bool(key) + (each if isinstance(each, str) else shown(each)) for key, each in pairs]
    text = ", ".join(items)
    if len(text) > _LONGEST // 2 or not text.isprintable():
        return ""
    return f"{{{text}}}" if isinstance(value, dict) else f"[{text}]"


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
            return (_flat(value) or "a mapping") if value else "an empty mapping"
        case list() | tuple():
            return (_flat(value) or "a list") if value else "an empty list"
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
