"""`composer eval`: score trained weights, also at other numbers of recurrent steps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from composer.cli.terminal.options import Set, Which
from composer.cli.terminal.steps import read_steps

if TYPE_CHECKING:
    from composer.language.schema.steps import Steps
    from composer.training.score import SavedModel, Scored

PANEL = "Training"
EXAMPLE = "composer eval runs/first --steps 4,6,8"


def eval(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN...", help="Run folders, or files of weights.", show_default=False),
    ],
    steps: Annotated[
        list[str] | None,
        typer.Option(
            "--steps",
            metavar="N,...",
            help="Run the recurrent stage for N steps; several make a table. With several such stages name "
            "one, as in stages.0=4,8. May be repeated.",
        ),
    ] = None,
    exit_threshold: Annotated[
        float | None,
        typer.Option(
            "--exit-threshold",
            metavar="P",
            help="Score each token at the first step at which its exit probabilities add up to P.",
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

    counts = read_steps(steps or ())
    extra = [*(settings or ()), *([f"train.eval.tokens={tokens}"] if tokens else ())]
    rows: dict[str, Scored] = {}
    for run in runs:
        saved = read(Path(run), checkpoint.value)
        for count in counts:
            rows[_name(run, count)] = score(saved, [*_depth(saved, count), *extra], data, exit_threshold)
    if json:
        from json import dumps

        told = {
            name: held_out(row.scores)
            | {"held_out_sequences": row.sequences}
            | ({"flops_per_token": row.flops} if steps else {})
            for name, row in rows.items()
        }
        print(dumps(told if len(told) > 1 else next(iter(told.values())), indent=2))
        return
    from composer.cli.terminal.console import console
    from composer.costs.base.units import count_text

    scores = {name: row.scores for name, row in rows.items()}
    sequences = sequences_text(*dict.fromkeys(row.sequences for row in rows.values()))
    flops = {name: {"FLOPs per token": count_text(row.flops)} for name, row in rows.items() if steps}
    console().print(score_table(f"held-out scores on {sequences}", scores, flops))


def _depth(saved: SavedModel, steps: Steps | None) -> list[str]:
    from composer.training.score import at_steps

    return [] if steps is None else at_steps(saved.spec, steps)


def _name(run: str, steps: Steps | None) -> str:
    match steps:
        case None:
            return run
        case int():
            return f"{run}, {steps} step{'s' if steps > 1 else ''}"
    return ", ".join([run, *(f"{place} {number}" for place, number in steps.items())])
