"""Writing files whole."""

from __future__ import annotations

import os
from pathlib import Path

from composer.spec.errors import Fault, SpecError


def write(path: str, text: str) -> None:
    """Write `text` to `path` aside, then put it in place; SpecError where that cannot be."""
    aside = Path(f"{path}.{os.getpid()}.tmp")
    try:
        aside.write_text(text, encoding="utf-8")
        os.replace(aside, path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise SpecError(
            [Fault(path, 0, 0, "", "a file that can be written", error.strerror or "none")]
        ) from None
