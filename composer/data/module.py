"""The Lightning data module of a spec: its task's batches, cut into micro-batches, from the trainer's step on.

The loaders are plain iterables, not `torch.utils.data.DataLoader`: a batch is made in well under the time
of a training step, so worker processes would only add their cost.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

import lightning
import torch

from composer.data.errors import DataError
from composer.data.stream import Batch, Stream

if TYPE_CHECKING:
    from composer.spec.models import Spec, Train

EVAL_SEED = 0
"""Whatever the seed of training, runs of one task are scored on the same sequences."""

TensorBatch = dict[str, torch.Tensor]
"""`tokens` and `targets` [sequences, length] and `group` [sequences], int64."""


def datamodule(spec: Spec) -> SpecData:
    """Build the data module of `spec.train`.

    Raises:
        DataError: the data is missing, malformed or too short.
    """
    return SpecData(spec.train)


class SpecData(lightning.LightningDataModule):
    """Serves the batches of `train.data` to a Trainer.

    One epoch is the whole training: `train.steps` optimizer steps of `train.accumulate` micro-batches, from
    the trainer's `global_step` on. A run resumed from a checkpoint thus goes on with the very next batch.
    When the last batch is given, the trainer is asked to stop, so that no second epoch repeats the data.
    """

    def __init__(self, train: Train) -> None:
        """Open the data of `train`.

        Raises:
            DataError: the data cannot be used, or the batch does not divide into micro-batches.
        """
        super().__init__()
        if train.batch_sequences % train.accumulate:
            raise DataError(
                f"a batch of {train.batch_sequences} sequences does not divide into "
                f"accumulate = {train.accumulate} micro-batches"
            )
        self.plan = train
        self.streams: dict[str, Stream] = {
            "train": train.data.stream("train", train.seed),
            "eval": train.data.stream("eval", EVAL_SEED),
        }
        self._pending = 0

    def train_dataloader(self) -> TrainBatches:
        """Give the micro-batches of this rank.

        Raises:
            DataError: the trainer's ranks or accumulation do not fit the spec.
        """
        if self.trainer is not None:
            self._accumulate_as_planned(self.trainer)
        return TrainBatches(self)

    def val_dataloader(self) -> EvalBatches:
        """Give this rank's share of the evaluation, the same sequences each time."""
        return EvalBatches(self)

    def share(self, sequences: int) -> slice:
        """Say which of `sequences` rows are this rank's: an equal, contiguous share of them.

        Raises:
            DataError: they do not divide among the ranks.
        """
        ranks, rank = (1, 0) if self.trainer is None else (self.trainer.world_size, self.trainer.global_rank)
        if sequences % ranks:
            raise DataError(f"{sequences} sequences do not divide among {ranks} devices")
        return slice(rank * sequences // ranks, (rank + 1) * sequences // ranks)

    def state_dict(self) -> dict[str, Any]:
        """Note for a checkpoint how many micro-batches await their optimizer step."""
        assert self.trainer is not None
        given = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready
        return {"pending": given % self.plan.accumulate}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the note of a checkpoint."""
        self._pending = state_dict["pending"]

    def start(self) -> int:
        """Return the optimizer step from which batches are to be given.

        Raises:
            DataError: the checkpoint stands amid an optimizer step, whose gradients are lost.
        """
        if self._pending:
            raise DataError(
                f"the checkpoint was saved after {self._pending} of the {self.plan.accumulate} micro-batches "
                "of an optimizer step; resume from one saved at the end of a step"
            )
        return 0 if self.trainer is None else int(self.trainer.global_step)

    def _accumulate_as_planned(self, trainer: lightning.Trainer) -> None:
        if trainer.accumulate_grad_batches not in (1, self.plan.accumulate):
            raise DataError(
                f"Trainer(accumulate_grad_batches={trainer.accumulate_grad_batches}), "
                f"but the spec says accumulate: {self.plan.accumulate}"
            )
        trainer.accumulate_grad_batches = self.plan.accumulate


class TrainBatches:
    """The micro-batches left of the training. It has no length: Lightning would take it for an epoch's."""

    def __init__(self, data: SpecData) -> None:
        self.data = data

    def __iter__(self) -> Iterator[TensorBatch]:
        plan, data = self.data.plan, self.data
        stream = data.streams["train"]
        micro = plan.batch_sequences // plan.accumulate
        share = data.share(micro)
        for step in range(data.start(), plan.steps):
            batch = stream.batch(step, plan.batch_sequences)
            for first in range(0, plan.batch_sequences, micro):
                yield _tensors(batch, first + share.start, first + share.stop)
        if data.trainer is not None:
            data.trainer.should_stop = True


class EvalBatches:
    """The evaluation in batches of the micro-batch's size, the last one of what is left."""

    def __init__(self, data: SpecData) -> None:
        plan = data.plan
        share = data.share(data.eval_sequences)
        self.rows = range(share.start, share.stop)
        self.size = len(range(plan.batch_sequences)[data.share(plan.batch_sequences // plan.accumulate)])
        self.data = data

    def __len__(self) -> int:
        return len(range(0, len(self.rows), self.size))

    def __iter__(self) -> Iterator[TensorBatch]:
        for first in self.rows[:: self.size]:
            yield _tensors(self.data.eval_batch, first, min(first + self.size, self.rows.stop))


def _tensors(batch: Batch, start: int, stop: int) -> TensorBatch:
    """Copy the sequences `start` .. `stop - 1` of a batch."""
    return {name: torch.tensor(rows[start:stop]) for name, rows in batch._asdict().items()}
