"""`composer lm-eval`: run tasks of lm-evaluation-harness on a trained model."""

from __future__ import annotations

from typing import Annotated

import typer

from composer.cli.terminal.options import Checkpoint, Run, Steps, Which
from composer.cli.terminal.steps import one_number

PANEL = "Training"
EXAMPLE = "composer lm-eval runs/first --tasks arc_easy,hellaswag"


def lm_eval(
    run: Run,
    tasks: Annotated[
        str,
        typer.Option("--tasks", metavar="TASK,...", help="Tasks of lm_eval, by name.", show_default=False),
    ],
    include: Annotated[
        str | None,
        typer.Option("--include-path", metavar="FOLDER", help="A folder with YAML files of more tasks."),
    ] = None,
    shots: Annotated[
        int | None,
        typer.Option(
            "--num-fewshot",
            metavar="N",
            min=0,
            help="Examples before each question. Default: what the task says.",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", min=1, help="The first N questions of a task only.")
    ] = None,
    steps: Steps = None,
    checkpoint: Checkpoint = Which.best,
    json: Annotated[bool, typer.Option("--json", help="Print plain JSON.")] = False,
) -> None:
    """Run tasks of lm-evaluation-harness on a trained model.

    The package downloads the data of its own tasks; tasks of --include-path can have local files. It is
    installed by the extra `lm-eval`.
    """
    from composer.settings.errors import UserError

    numbers = one_number(steps or ())
    names = [name for each in tasks.split(",") if (name := each.strip())]
    if not names:
        raise typer.BadParameter(f"expected names of tasks, got {tasks!r}", param_hint="--tasks")
    try:
        from composer.training.questions.harness import run_tasks
    except ImportError as error:
        raise UserError(
            f"composer lm-eval needs the package lm_eval, which cannot be imported ({error}); "
            "install it with: pip install 'attention-composer[lm-eval]'"
        ) from None
    results = run_tasks(
        run,
        names,
        checkpoint=checkpoint.value,
        steps=numbers,
        include=include,
        shots=shots,
        limit=limit,
    )
    if json:
        from json import dumps

        print(dumps(results["results"], indent=2, default=str))
        return
    from lm_eval.utils import make_table

    print(make_table(results))
