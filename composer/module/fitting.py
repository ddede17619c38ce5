"""Checks the options of a lightning.Trainer against the spec."""

from __future__ import annotations

from collections.abc import Iterator

import lightning
from lightning.pytorch.strategies import FSDPStrategy

from composer.language.schema.spec import Train


def check_trainer(trainer: lightning.Trainer, train: Train, name: str) -> None:
    """Check the options of a Trainer that do not depend on batches; `name` is the name of the spec.

    Raises:
        ValueError: options contradict the spec; all of them are listed.
    """
    if problems := [*_refused(trainer, train)]:
        raise ValueError("\n".join(f"{name}: {each}" for each in problems))


def clipping(value: float | None, algorithm: str | None, train: Train) -> tuple[float, str]:
    """Return the value and the algorithm of gradient clipping: the Trainer's, else the spec's.

    A value of 0 clips nothing.
    """
    return (train.clip if value is None else value), algorithm or "norm"


def _refused(trainer: lightning.Trainer, train: Train) -> Iterator[str]:
    runs = trainer.precision
    wanted = {32: "32-true", "bf16-mixed": "bf16-mixed"}.get(train.precision, runs)
    if wanted != runs:
        yield (
            f"the spec says train.precision: {train.precision}, the Trainer runs {runs}; "
            f"give it precision={wanted!r}"
        )
    elif runs in ("16-true", "bf16-true"):
        yield (
            f"Trainer(precision={runs!r}) would keep weights and the loads of experts in 16 bits, which no "
            "train.precision asks for; use 'bf16-mixed'"
        )
    if trainer.gradient_clip_val is None and trainer.gradient_clip_algorithm not in (None, "norm"):
        yield (
            f"the spec's train.clip ({train.clip:g}) is a norm, the Trainer clips by "
            f"{trainer.gradient_clip_algorithm}; give it gradient_clip_val too"
        )
    if isinstance(trainer.strategy, FSDPStrategy):
        yield (
            "FSDPStrategy flattens weights, which a composed model cannot read; use ModelParallelStrategy, "
            "which shards them by FSDP2, or train.strategy: fsdp with composer train"
        )
