"""What `composer eval --on FILE` does: scores on questions as a table, as JSON and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

if TYPE_CHECKING:
    from composer.language.schema.steps import Steps
    from composer.training.questions.score import As, Quality
    from composer.training.score import SavedModel


class Asked(NamedTuple):
    """Which questions are asked and how, as the options say."""

    file: str
    kind: As
    form: str
    limit: int | None
    pattern: str | None
    new_tokens: int | None
    plot: str | None


def score_on(
    runs: Sequence[str], which: Any, counts: Sequence[Steps | None], asked: Asked, json: bool
) -> None:
    """Score runs on questions, at each number of steps, and print the results.

    Raises:
        DataError: the questions cannot be read.
        TrainingError: a run cannot be read, or the questions do not go with it.
    """
    from composer.data.base.errors import DataError
    from composer.training.questions.forms import FORMS
    from composer.training.questions.read import read_questions
    from composer.training.questions.score import score_questions
    from composer.training.score import read

    questions = read_questions(Path(asked.file), asked.form, asked.limit)
    pattern = FORMS[asked.form].pattern if asked.pattern is None else asked.pattern
    rows: list[tuple[str, SavedModel, Steps | None, Quality]] = []
    for run in runs:
        saved = read(Path(run), which)
        model = saved.model()
        for count in counts:
            try:
                quality = score_questions(model, questions, asked.kind, count, pattern, asked.new_tokens)
            except DataError as error:
                raise DataError(f"{asked.file}: {run} cannot read it: {error}") from None
            rows.append((run, saved, count, quality))
    if json:
        _print_json(rows)
    else:
        _print_table(rows, asked, len(questions))
    if asked.plot is not None:
        _draw(rows, asked)


def _print_json(rows: Sequence[tuple[str, SavedModel, Steps | None, Quality]]) -> None:
    from json import dumps

    entries = [
        {
            "run": run,
            "steps": _steps(saved, count),
            **quality.scores,
            "questions": quality.questions,
            "shortened": quality.shortened,
            "flops_per_token": quality.flops,
        }
        for run, saved, count, quality in rows
    ]
    print(dumps(entries if len(entries) > 1 else entries[0], indent=2))


def _print_table(
    rows: Sequence[tuple[str, SavedModel, Steps | None, Quality]], asked: Asked, count: int
) -> None:
    from composer.cli.terminal.console import console
    from composer.cli.terminal.scores import score_table
    from composer.costs.base.units import count_text

    named = {_name(run, saved, steps): quality for run, saved, steps, quality in rows}
    flops = {name: {"FLOPs per token": count_text(quality.flops)} for name, quality in named.items()}
    title = f"{asked.kind} on {count:,} questions of {asked.file}"
    scores = {name: quality.scores for name, quality in named.items()}
    console().print(score_table(title, scores, flops))
    if shortened := max(quality.shortened for *_, quality in rows):
        print(f"{shortened:,} prompts were longer than the context, and lost their beginning")


def _draw(rows: Sequence[tuple[str, SavedModel, Steps | None, Quality]], asked: Asked) -> None:
    from composer.cli.terminal.files import write
    from composer.draw.curves import Measured, curves
    from composer.draw.svg import svg

    runs = {run for run, *_ in rows}
    if len(runs) > 1 or any(not isinstance(count, int) for _, _, count, _ in rows):
        raise typer.BadParameter(
            "expected one run with one recurrent stage, and --steps", param_hint="--plot"
        )
    points = [
        Measured(count, quality.flops, quality.scores, trained=count == _trained(saved))
        for _, saved, count, quality in rows
        if isinstance(count, int)
    ]
    names = [name for name in points[0].scores if name.startswith(("accuracy", "chance", "exact"))]
    if asked.kind == "loss":
        names = ["bits_per_byte"]
    title = f"{rows[0][1].spec.name}: {asked.kind} on {Path(asked.file).name}"
    write(str(asked.plot), svg(curves(title, points, names)))


def _steps(saved: SavedModel, count: Steps | None) -> Any:
    return _trained(saved) if count is None else count


def _trained(saved: SavedModel) -> int | None:
    """Return how often the only recurrent stage runs in training; None where there is not one."""
    from composer.language.schema.steps import all_stages, recurrent_place

    try:
        return all_stages(saved.spec.stages)[recurrent_place(saved.spec)].trips
    except ValueError:
        return None


def _name(run: str, saved: SavedModel, steps: Steps | None) -> str:
    match steps:
        case None:
            return run
        case int():
            trained = ", as trained" if steps == _trained(saved) else ""
            return f"{run}, {steps} step{'s' if steps > 1 else ''}{trained}"
    return ", ".join([run, *(f"{place} {number}" for place, number in steps.items())])
