"""Inspecting trained models: all measures on one or two of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any, Literal

import torch

from composer.inspect.base.left_out import LeftOut
from composer.inspect.base.measure import Measure, Result
from composer.inspect.base.subject import Subject
from composer.training.data.datamodule import datamodule
from composer.training.folder.data_record import located
from composer.training.folder.errors import TrainingError
from composer.training.score import read

TOKENS, LOGITS = 9600, 1 << 27
"""Held-out tokens that a model is shown by default, and most logits that these may have."""

Progress = Callable[[str, str, int, int], None]
"""Takes a run, a measure, and how many of how many of its passes are done (0 of 0: it begins)."""


@dataclass(frozen=True)
class Inspected:
    """What was found in one model.

    Attributes:
        name: of its spec.
        path: the file of its weights.
        found: by measure, what it found or why it was left out.
        tokens, sequences: how much held-out data it was shown.
        steps, stage: the number of steps that are looked at, and the place of their stage.
        recurrent: whether these share their weights.
    """

    name: str
    path: str
    results: Mapping[str, Result | str]
    tokens: int
    sequences: int
    steps: int
    stage: str
    recurrent: bool


def subject_of(
    path: Path, which: Literal["best", "last"] = "best", tokens: int | None = None, data: str | None = None
) -> tuple[Subject, Path]:
    """Return the trained model of a run, with held-out sequences of `tokens` tokens or a little more.

    By default these are 9600, and fewer where the vocabulary is large.

    Raises:
        TrainingError: there are no such weights, or the spec names no data.
        DataError: the data cannot be found or read.
    """
    saved = read(path, which)
    if saved.spec.train is None:
        raise TrainingError(f"{path}: expected a spec with a `train` section, whose data to look at")
    spec = located(saved.spec, saved.folder, data)
    model = saved.model(spec)
    tokens = tokens or min(TOKENS, LOGITS // spec.model.vocab)
    batches: dict[str, list[torch.Tensor]] = {"tokens": [], "targets": [], "group": []}
    count = 0
    for batch in datamodule(spec).val_dataloader():
        kept = (batch["targets"] != -100).any(-1)
        length = batch["tokens"].shape[1]
        wanted = -(-(tokens - count) // length)
        for name, parts in batches.items():
            parts.append(batch[name][kept][:wanted])
        count += length * len(batches["tokens"][-1])
        if count >= tokens:
            break
    shown = {name: torch.cat(parts) for name, parts in batches.items()}
    return Subject(spec.name, model, shown["tokens"], shown["targets"], shown["group"]), saved.path


def inspect(
    subject: Subject, path: Path, measures: Sequence[Measure], progress: Progress = lambda *_: None
) -> Inspected:
    """Run measures on a model; those that do not apply say why."""
    results: dict[str, Result | str] = {}
    for each in measures:
        progress(subject.name, each.name, 0, 0)
        try:
            results[each.name] = each.run(subject, partial(progress, subject.name, each.name))
        except LeftOut as reason:
            results[each.name] = str(reason)
    sequences, length = subject.tokens.shape
    return Inspected(
        subject.name,
        str(path),
        results,
        sequences * length,
        sequences,
        subject.steps,
        subject.stage,
        subject.recurrent,
    )


def as_json(runs: Sequence[Inspected], measures: Sequence[Measure]) -> dict[str, Any]:
    """Return what was found as plain data, with the definitions."""
    return {
        "measures": {each.name: {"title": each.title, "definition": [*each.definition]} for each in measures},
        "runs": [
            {
                "name": run.name,
                "weights": run.path,
                "tokens": run.tokens,
                "sequences": run.sequences,
                "stage": run.stage,
                "steps": run.steps,
                "found": {
                    name: {"left_out": result} if isinstance(result, str) else _plain(result.values)
                    for name, result in run.results.items()
                },
            }
            for run in runs
        ],
    }


def _plain(value: Any) -> Any:
    """Return values with null in the place of numbers that JSON does not have: a model may have diverged."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not isfinite(value) else value
