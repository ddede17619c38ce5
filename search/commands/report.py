"""`composer report`: a search as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

PANEL = "Search"
EXAMPLE = "composer report runs/space --out report.html"


def report(
    folder: Annotated[
        Path, typer.Argument(metavar="RUN", help="The folder of a search.", show_default=False)
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.html",
            help="Write only the page, to this file. Default: report.html and figures/ in the folder.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write the report of a search as one page that works offline, finished or still running.

    It shows the Pareto front, each spec one click away, learning curves, the effect of each
    parameter, how reliable rungs are, costs against caps, baselines and all trials.
    """
    if out is not None and not out.name.lower().endswith((".html", ".htm")):
        raise typer.BadParameter("expected a file that ends in .html", param_hint="--out")
    from composer.settings.errors import os_message
    from search.errors import SearchError
    from search.report.write import write_report

    try:
        print(f"written to {write_report(folder, out)}")
    except OSError as error:
        raise SearchError(os_message(error, error.filename or out or folder, writing=True)) from None
