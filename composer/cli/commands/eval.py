"""`composer eval`: score trained weights, also at other numbers of recurrent steps."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from composer.cli.terminal.options import Set

if TYPE_CHECKING:
    from composer.training.score import SavedModel, Scored

PANEL = "Training"
EXAMPLE = "composer eval runs/first --steps 4,6,8"


class Which(StrEnum):
    """Which weights of a run folder."""

    best = "best"
    last = "last"


def eval(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN...", help="Run folders, or files of weights.", show_default=False),
    ],
    steps: Annotated[
        str | None,
        typer.Option(
            "--steps", metavar="N,...", help="Run the recurrent stage for N steps; several make a table."
        ),
    ] = None,
    settings: Set = None,
    tokens: Annotated[
        str | None,
        typer.Option("--tokens", metavar="N", help="Number of held-out tokens to score, such as 1M."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data", metavar="PATH", help="Where the run's own data is now; it has to be the same."
        ),
    ] = None,
    checkpoint: Annotated[
        Which, typer.Option("--checkpoint", help="Which weights of a run folder.")
    ] = Which.best,
    json: Annotated[bool, typer.Option("--json", help="Print plain JSON.")] = False,
) -> None:
    """Score trained weights on held-out data.

    The sequences are the same each time, each is scored once, and none of them was trained on. With --steps
    the weights run in the model of another depth; weights that belong to single steps do not fit there and
    are refused.
    """
    from composer.cli.commands.train import score_table, sequences_text
    from composer.training.folder.metrics import held_out
    from composer.training.score import read, score

    counts = _counts(steps)
    extra = [*(settings or ()), *([f"train.eval.tokens={tokens}"] if tokens else ())]
    rows: dict[str, Scored] = {}
    for run in runs:
        saved = read(Path(run), checkpoint.value)
        for count in counts:
            rows[_name(run, count)] = score(saved, [*_depth(saved, count), *extra], data)
    if json:
        from json import dumps

        told = {
            name: held_out(row.scores) | {"held_out_sequences": row.sequences} for name, row in rows.items()
        }
        print(dumps(told if len(told) > 1 else next(iter(told.values())), indent=2))
        return
    from composer.cli.terminal.console import console

    scores = {name: row.scores for name, row in rows.items()}
    sequences = sequences_text(*dict.fromkeys(row.sequences for row in rows.values()))
    console().print(score_table(f"held-out scores on {sequences}", scores))


def _counts(steps: str | None) -> list[int | None]:
    if steps is None:
        return [None]
    words = [word.strip() for word in steps.split(",")]
    if not all(word.isascii() and word.isdigit() and int(word) > 0 for word in words):
        raise typer.BadParameter(f"expected numbers of steps such as 8 or 4,8,16, got {steps!r}")
    return [int(word) for word in words]


def _depth(saved: SavedModel, count: int | None) -> list[str]:
    from composer.training.score import at_steps

    return [] if count is None else [at_steps(saved.spec, count)]


def _name(run: str, count: int | None) -> str:
    return run if count is None else f"{run}, {count} step{'s' if count > 1 else ''}"
