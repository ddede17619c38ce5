"""Where tables are printed: as wide as the terminal, wide enough not to fold when there is none."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

_PIPED = 200


def console() -> Console:
    """Return a console for standard output."""
    from rich.console import Console

    out = Console(highlight=False, soft_wrap=True)
    return out if out.is_terminal else Console(highlight=False, width=_PIPED)
