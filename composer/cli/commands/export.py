"""`composer export`: a trained model as a file of plain PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from composer.cli.terminal.options import Checkpoint, Run, Which

PANEL = "Training"
EXAMPLE = "composer export runs/first --to pytorch --out first"


def export(
    run: Run,
    out: Annotated[
        str, typer.Option("--out", metavar="FOLDER", help="Where the files go.", show_default=False)
    ],
    to: Annotated[
        Literal["pytorch", "huggingface"],
        typer.Option(
            "--to",
            help="pytorch: model.py and model.safetensors. huggingface: a folder that transformers loads "
            "with trust_remote_code=True.",
        ),
    ] = "pytorch",
    checkpoint: Checkpoint = Which.best,
) -> None:
    """Write a model as a file of plain PyTorch, which imports nothing of composer, and its weights.

    The file has the names of the spec and the shape of every value. Its `load()` returns a module that gives
    the same logits, can be trained, and generates.
    """
    from composer.export.huggingface import write_huggingface
    from composer.export.pytorch import write
    from composer.settings.errors import UserError, os_message
    from composer.training.score import read

    model = read(Path(run), checkpoint.value).model()
    try:
        files = (write if to == "pytorch" else write_huggingface)(model.cpu(), Path(out))
    except OSError as error:
        raise UserError(os_message(error, out, writing=True)) from None
    for file in files:
        print(file)
