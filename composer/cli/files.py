"""Writing files whole."""

from __future__ import annotations

import os
from pathlib import Path

from composer.spec.errors import Fault, SpecError


def make_folder(folder: Path) -> None:
    """Make a folder with those above it; SpecError where that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _refused(str(folder), "a folder that can be made", error) from None


def write(path: str, text: str) -> None:
    """Write `text` to `path` aside, then put it in place; SpecError where that cannot be."""
    aside = Path(f"{path}.{os.getpid()}.tmp")
    try:
        aside.write_text(text, encoding="utf-8")
        os.replace(aside, path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise _refused(path, "a file that can be written", error) from None


def _refused(path: str, expected: str, error: OSError) -> SpecError:
    return SpecError([Fault(path, 0, 0, "", expected, error.strerror or "none")])
