"""Writing files whole."""

from __future__ import annotations

import os
from pathlib import Path

from composer.settings.errors import Fault, SpecError, os_message


def make_folder(folder: Path) -> None:
    """Make a folder with those above it; SpecError where that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _refused(os_message(error, folder)) from None


def write(path: str, text: str) -> None:
    """Write `text` to `path` aside, then put it in place; SpecError where that cannot be."""
    aside = Path(f"{path}.{os.getpid()}.tmp")
    try:
        aside.write_text(text, encoding="utf-8")
        os.replace(aside, path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise _refused(os_message(error, path, writing=True)) from None


def _refused(message: str) -> SpecError:
    return SpecError([Fault("", 0, 0, "", message, "")])
