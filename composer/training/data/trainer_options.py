"""The options of a lightning.Trainer that trains on the batches of a spec.

An option that contradicts the spec is refused; docs/pytorch.md has the whole table.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import lightning
from lightning.pytorch.callbacks import GradientAccumulationScheduler, StochasticWeightAveraging

from composer.data.base.errors import DataError

if TYPE_CHECKING:
    from composer.language.schema.spec import Train


def prepare(trainer: lightning.Trainer, train: Train) -> None:
    """Check the options of a Trainer, and set accumulation as in `train` unless the Trainer has its own.

    Raises:
        DataError: with all options that contradict the spec.
    """
    if problems := [*_refused(trainer, train)]:
        raise DataError("\n".join(problems))
    trainer.accumulate_grad_batches = train.accumulate


def counts_batches(trainer: lightning.Trainer) -> bool:
    """Return whether an option of the Trainer ends an epoch after a number of batches."""
    return isinstance(trainer.limit_train_batches, int)


def repeats_batches(trainer: lightning.Trainer) -> bool:
    """Return whether every epoch reads the same batches."""
    return bool(trainer.overfit_batches)  # type: ignore[attr-defined]


def _refused(trainer: lightning.Trainer, train: Train) -> Iterator[str]:
    yield from _refused_accumulation(trainer, train)
    if (least := trainer.min_steps) is not None and least > train.steps:
        yield f"Trainer(min_steps={least}): the spec has {train.steps} optimizer steps; raise train.tokens"
    if (epochs := trainer.min_epochs) is not None and epochs > 1:
        yield (
            f"Trainer(min_epochs={epochs}): one epoch of a spec's batches is the whole training; "
            "raise train.tokens to train longer"
        )
    every = trainer.check_val_every_n_epoch
    whole = not counts_batches(trainer) and trainer.val_check_interval == 1.0
    if every is not None and every > 1 and whole and trainer.limit_val_batches:
        yield (
            f"Trainer(check_val_every_n_epoch={every}): one epoch of a spec's batches is the whole training, "
            "so nothing would be validated; give val_check_interval a number of micro-batches"
        )
    if _has(trainer, StochasticWeightAveraging):
        yield (
            "StochasticWeightAveraging averages over epochs and replaces the spec's learning rates, but one "
            "epoch of a spec's batches is the whole training; use lightning's EMAWeightAveraging, which "
            "averages over steps"
        )


def _refused_accumulation(trainer: lightning.Trainer, train: Train) -> Iterator[str]:
    wanted = train.accumulate
    if trainer.accumulate_grad_batches not in (1, wanted):
        steps = trainer.accumulate_grad_batches
        yield f"Trainer(accumulate_grad_batches={steps}), but the spec says accumulate: {wanted}"
    if _has(trainer, GradientAccumulationScheduler):
        yield (
            f"GradientAccumulationScheduler would change the number of optimizer steps, but the spec says "
            f"accumulate: {wanted} for each of its {train.steps} steps; set train.accumulate"
        )
    limit = trainer.limit_train_batches
    dry: int = trainer.fast_dev_run  # type: ignore[attr-defined]
    if isinstance(limit, int) and limit % wanted and not dry:
        option = "overfit_batches" if repeats_batches(trainer) else "limit_train_batches"
        yield (
            f"Trainer({option}={limit}) ends an epoch amid an optimizer step of accumulate: {wanted} "
            f"micro-batches; give it a multiple of {wanted}"
        )


def _has(trainer: lightning.Trainer, kind: type[lightning.Callback]) -> bool:
    return any(isinstance(each, kind) for each in trainer.callbacks)  # type: ignore[attr-defined]
