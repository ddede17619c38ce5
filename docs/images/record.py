"""Record the README's picture of a search: what `composer search specs/space.yaml` ends with, as an SVG.

Goes on with the search in its folder, or shows the result again where it is finished. `make picture`.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.terminal_theme import MONOKAI

from composer.spec.space import load_space
from composer.training.files import write_text
from search.command import run

COMMAND = "composer search specs/space.yaml"
PICTURE = Path(__file__).with_name("search.svg")
WIDTH = 118


class Screen(Console):
    """A terminal that folds long lines, as terminals do."""

    def print(self, *objects: Any, soft_wrap: bool | None = None, **options: Any) -> None:
        """Print within the width."""
        super().print(*objects, soft_wrap=False, **options)


def record(folder: Path | None) -> str:
    """Run the search, quietly, and return its last screen."""
    screen = Screen(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, highlight=False)
    screen.print(f"[bold]$ {COMMAND}[/bold]")
    with contextlib.redirect_stdout(io.StringIO()):
        run(load_space(COMMAND.split()[-1]), folder, True, screen)
    svg = screen.export_svg(title=COMMAND, theme=MONOKAI, unique_id="search")
    # a picture in a README loads no fonts
    return re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)


if __name__ == "__main__":
    write_text(PICTURE, record(Path(sys.argv[1]) if sys.argv[1:] else None))
    print(f"wrote {PICTURE}")
