"""`composer draw`: a spec as a picture."""

from __future__ import annotations

from typing import Annotated

import typer

from composer.cli.terminal.options import Set, SpecFile

PANEL = "Specs"
EXAMPLE = "composer draw specs/dreamer-tiny.yaml --out dreamer-tiny.svg"


def draw(
    file: SpecFile,
    settings: Set = None,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            metavar="FILE",
            help="Write it to a file: .svg, or .html with details under the pointer. Default: print the SVG.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Draw a spec: the mix of its steps, and how state flows through sequence, depth and experts.

    Each block tells its shapes, parameters and FLOPs; bars are shares of all forward FLOPs.
    """
    from composer.draw.layout import picture
    from composer.draw.svg import svg
    from composer.language.load import load

    if out is not None and not out.lower().endswith((".svg", ".html")):
        raise typer.BadParameter("expected a file that ends in .svg or .html", param_hint="--out")
    drawn = picture(load(file, settings or ()))
    if out is None:
        print(svg(drawn), end="")
        return
    from composer.cli.terminal.files import write
    from composer.draw.html import html

    write(out, html(drawn) if out.lower().endswith(".html") else svg(drawn))
