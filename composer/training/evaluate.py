"""Scoring a model on held-out batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from composer.module.model import ComposedModel
from composer.module.scores import Scores


def _alone(value: Any, **_: Any) -> Any:
    return value


def evaluate(
    model: ComposedModel,
    batches: Iterable[dict[str, Tensor]],
    precision: Callable[[], AbstractContextManager[Any]] = nullcontext,
    reduce: Callable[..., Any] = _alone,
    exit_threshold: float | None = None,
) -> dict[str, float]:
    """Return loss, accuracy and the data's other metrics over all batches.

    `precision` opens the context that products run in; `reduce` sums a tensor over ranks; `exit_threshold`
    is that of the model's `forward`. The model is left in its original mode.
    """
    scores, training = Scores(model.spec), model.training
    model.eval()
    with torch.no_grad(), precision():
        for batch in batches:
            tokens, targets, group = (batch[name].to(model.device) for name in ("tokens", "targets", "group"))
            scores.add(model(tokens, exit_threshold=exit_threshold), targets, group)
    model.train(training)
    return scores.take(reduce)


def precision_of(model: ComposedModel) -> str:
    """Return the precision that the spec asks for on the model's device, as Lightning calls it."""
    asked = model.spec.train.precision if model.spec.train else "auto"
    return lightning_precision(asked, model.device)


def lightning_precision(asked: str | int, device: torch.device) -> str:
    """Translate `train.precision`: `auto` is bf16-mixed if the hardware supports it, else 32-true."""
    if asked == "auto":
        return "bf16-mixed" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "32-true"
    return "32-true" if asked == 32 else str(asked)


def autocast(model: ComposedModel) -> AbstractContextManager[Any]:
    """Return the context for the spec's precision outside of a Trainer."""
    mixed = precision_of(model) == "bf16-mixed"
    return torch.autocast(model.device.type, torch.bfloat16) if mixed else nullcontext()
