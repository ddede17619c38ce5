"""`composer inspect`: what the steps, the depth attention and the experts of trained models do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from composer.cli.terminal.options import Checkpoint, Data, Which

PANEL = "Training"
EXAMPLE = "composer inspect runs/first --out first.html"
_PAGE = "inspect.html"


def inspect(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN", help="One or two run folders, or files of weights.", show_default=False
        ),
    ],
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            metavar="FILE.html",
            help=f"Where the page is written. Default: {_PAGE}.",
            show_default=False,
        ),
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print plain JSON; a page is then written only with --out.")
    ] = False,
    only: Annotated[
        str | None,
        typer.Option(
            "--only", metavar="NAME,...", help="Only some measures, such as lens,steps.", show_default=False
        ),
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option(
            "--tokens",
            metavar="N",
            min=1,
            help="Held-out tokens that are looked at. Default: 9600, fewer of a large vocabulary.",
        ),
    ] = None,
    data: Data = None,
    checkpoint: Checkpoint = Which.best,
) -> None:
    """Look into trained models: what each step adds, which steps read which, what the experts do.

    The page works offline. It has the lens (what the model would say after each step), how the state moves,
    maps of depth attention, load and diversity of experts, what is lost without a step, a slot or an expert,
    and quality with fewer and more steps; each with its definition. Two runs stand side by side.
    """
    if len(runs) > 2:
        raise typer.BadParameter(f"expected one or two runs, got {len(runs)}", param_hint="RUN")
    if out is not None and not out.lower().endswith((".html", ".htm")):
        raise typer.BadParameter("expected a file that ends in .html", param_hint="--out")
    from composer.inspect.find import find_measures

    measures = find_measures()
    if only is not None:
        wanted, known = [each.strip() for each in only.split(",")], [each.name for each in measures]
        for name in wanted:
            if name not in known:
                raise typer.BadParameter(
                    f"expected some of {', '.join(known)}, got {name!r}", param_hint="--only"
                )
        measures = [each for each in measures if each.name in wanted]
    from composer.cli.terminal.passes import passes
    from composer.inspect.inspect import as_json, inspect, subject_of

    inspected = []
    with passes() as tell:
        for run in runs:
            subject, path = subject_of(run, checkpoint.value, tokens, data)
            inspected.append(inspect(subject, path, measures, tell))
    if json:
        from json import dumps

        print(dumps(as_json(inspected, measures), indent=2))
    if out is not None or not json:
        from composer.cli.terminal.files import write
        from composer.inspect.page import page

        write(out or _PAGE, page(inspected, measures))
        if not json:
            print(f"written to {out or _PAGE}")
