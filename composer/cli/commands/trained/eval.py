"""`composer eval`: score trained weights, also at other numbers of recurrent steps."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from composer.cli.terminal.options import Checkpoint, Data, Set, Which
from composer.cli.terminal.steps import read_steps

if TYPE_CHECKING:
    from composer.language.schema.steps import Steps
    from composer.training.score import SavedModel, Scored

PANEL = "Training"
EXAMPLE = "composer eval runs/first --steps 4,6,8"


class Kind(StrEnum):
    """How questions are scored."""

    choice = "multiple-choice"
    loss = "loss"
    generate = "generate"


def eval(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN", help="Run folders, or files of weights.", show_default=False),
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
    data: Data = None,
    checkpoint: Checkpoint = Which.best,
    on: Annotated[
        str | None,
        typer.Option("--on", metavar="FILE", help="Score on the questions of a JSON or JSON lines file."),
    ] = None,
    kind: Annotated[Kind | None, typer.Option("--as", help="How questions are scored.")] = None,
    form: Annotated[
        str,
        typer.Option(
            "--form",
            metavar="NAME",
            help="The form of the file: plain, gsm8k, math, mmlu, mathqa, aqua or svamp.",
        ),
    ] = "plain",
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", min=1, help="The first N questions only.")
    ] = None,
    answer: Annotated[
        str | None,
        typer.Option(
            "--answer",
            metavar="REGEX",
            help="What finds the answer in a generated text, instead of the form's own pattern.",
        ),
    ] = None,
    new_tokens: Annotated[
        int | None,
        typer.Option(
            "--max-new-tokens", metavar="N", min=1, help="New tokens of a generated answer at most."
        ),
    ] = None,
    plot: Annotated[
        str | None,
        typer.Option("--plot", metavar="FILE.svg", help="Draw scores on questions against steps and FLOPs."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print plain JSON.")] = False,
) -> None:
    """Score trained weights on held-out data, or on the questions of a file.

    The sequences are the same each time, each is scored once, and none of them was trained on. With --steps
    the weights run in the model of another depth; weights that belong to single steps do not fit there and
    are refused.

    With --on the model is scored on the questions of a file: the share of right choices (`accuracy`, and by
    the mean over the bytes of a choice), the share of generated answers that are right, or the loss of the
    targets.
    """
    from composer.cli.terminal.scores import score_table, sequences_text
    from composer.training.folder.metrics import held_out
    from composer.training.score import read, score

    counts = read_steps(steps or ())
    if on is not None:
        from composer.cli.terminal.questions import Asked, score_on

        _refuse("--on", [settings, tokens, data, exit_threshold])
        if kind is None:
            raise typer.BadParameter(f"expected --as {', '.join(Kind)} beside it", param_hint="--on")
        asked = Asked(on, kind.value, form, limit, answer, new_tokens, plot)
        score_on(runs, checkpoint.value, counts, asked, json)
        return
    given = [kind, None if form == "plain" else form, limit, answer, new_tokens, plot]
    if any(each is not None for each in given):
        raise typer.BadParameter("expected --on FILE beside options for questions")
    extra = [*(settings or ()), *([f"train.eval.tokens={tokens}"] if tokens else ())]
    rows: dict[str, Scored] = {}
    for run in runs:
        saved = read(Path(run), checkpoint.value)
        for count in counts:
            rows[_name(run, count)] = score(saved, [*_depth(saved, count), *extra], data, exit_threshold)
    if json:
        from json import dumps

        results = {
            name: held_out(row.scores)
            | {"held_out_sequences": row.sequences}
            | ({"flops_per_token": row.flops} if steps else {})
            for name, row in rows.items()
        }
        print(dumps(results if len(results) > 1 else next(iter(results.values())), indent=2))
        return
    from composer.cli.terminal.console import console
    from composer.costs.base.units import count_text

    scores = {name: row.scores for name, row in rows.items()}
    sequences = sequences_text(*dict.fromkeys(row.sequences for row in rows.values()))
    flops = {name: {"FLOPs per token": count_text(row.flops)} for name, row in rows.items() if steps}
    console().print(score_table(f"held-out scores on {sequences}", scores, flops))


def _refuse(option: str, others: list[object]) -> None:
    if any(each is not None for each in others):
        raise typer.BadParameter(
            "expected no --set, --tokens, --data or --exit-threshold beside it", param_hint=option
        )


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
