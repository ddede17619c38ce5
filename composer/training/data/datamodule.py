"""The Lightning data module of a spec: its task's batches, cut into micro-batches.

The loaders are plain iterables, not `torch.utils.data.DataLoader`: a batch is made in well under the time
of a training step, so worker processes would only add their cost.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, count, islice
from typing import TYPE_CHECKING

import lightning
import torch

from composer.data.base.config import DataConfig
from composer.data.base.errors import DataError
from composer.data.base.stream import IGNORED, Stream
from composer.training.data.trainer_options import counts_batches, prepare, repeats_batches

if TYPE_CHECKING:
    from composer.language.schema.spec import Spec, Train

EVAL_SEED = 0
"""The seed of evaluation: runs of one task are scored on the same sequences, whatever their seed."""

TensorBatch = dict[str, torch.Tensor]
"""`tokens` and `targets` [sequences, length] and `group` [sequences], int64."""


def datamodule(spec: Spec) -> SpecData:
    """Build the data module of `spec.train`.

    Raises:
        DataError: the spec has no `train`, or its data is missing, malformed or too short.
    """
    if spec.train is None:
        raise DataError(f"{spec.name}: the spec has no `train`, which says what the data is")
    return SpecData(spec.train)


class SpecData(lightning.LightningDataModule):
    """Serves the batches of `train.data` to a Trainer.

    One epoch is the whole training: `train.steps` optimizer steps of `train.accumulate` micro-batches, from
    the trainer's `global_step` on. A run resumed from a checkpoint thus continues with the very next batch.
    When the last batch is given, the trainer is asked to stop, so that no second epoch repeats the data.
    With `overfit_batches` of a Trainer each epoch gives the same first batches, for as many steps in all.
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
        assert isinstance(train.data, DataConfig)
        self.plan = train
        self._train = train.data.stream("train", train.seed)
        self._eval = train.data.stream("eval", EVAL_SEED)

    def setup(self, stage: str) -> None:
        """Check the Trainer's options before a fit, and set its accumulation as the spec says.

        Raises:
            DataError: the Trainer's options contradict the spec.
        """
        if stage == "fit" and self.trainer is not None:
            prepare(self.trainer, self.plan)

    def train_dataloader(self) -> Iterable[TensorBatch]:
        """Return this rank's micro-batches of the remaining optimizer steps.

        Raises:
            DataError: the trainer's ranks do not fit the spec.
        """
        return TrainBatches(self)

    def val_dataloader(self) -> Iterable[TensorBatch]:
        """Return this rank's micro-batches of the evaluation, the same sequences each time."""
        return EvalBatches(self)

    def test_dataloader(self) -> Iterable[TensorBatch]:
        """Return the evaluation's micro-batches, since there is one held-out set."""
        return self.val_dataloader()

    def predict_dataloader(self) -> Iterable[TensorBatch]:
        """Return the evaluation's micro-batches."""
        return self.val_dataloader()

    def start(self) -> int:
        """Return the optimizer step from which batches are served.

        Raises:
            DataError: the trainer is in the middle of an optimizer step, whose gradients a checkpoint lacks.
        """
        if self.trainer is None:
            return 0
        # micro-batches served so far, restored from a checkpoint before the loaders are created
        pending = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready % self.plan.accumulate
        if pending:
            raise DataError(
                f"the checkpoint was saved after {pending} of the {self.plan.accumulate} micro-batches of an "
                "optimizer step, whose gradients are lost; resume from one saved at the end of a step"
            )
        return int(self.trainer.global_step)

    def train_batches(self) -> Iterator[TensorBatch]:
        """Yield the micro-batches of the remaining optimizer steps, then ask the trainer to stop."""
        start, trainer = self.start(), self.trainer
        first = 0 if trainer is not None and repeats_batches(trainer) else start
        left = (self.plan.steps - start) * self.plan.accumulate
        batches = chain.from_iterable(self._micro_batches(self._train, step) for step in count(first))
        for given, batch in enumerate(islice(batches, left), start=1):
            if given == left and trainer is not None and counts_batches(trainer):
                # it takes no look at whether there is another
                trainer.should_stop = True
            yield batch
        if trainer is not None:
            trainer.should_stop = True

    def eval_batches(self) -> Iterator[TensorBatch]:
        """Yield the micro-batches of one evaluation."""
        size = self.plan.batch_sequences
        for first in range(0, self.eval_sequences, size):
            yield from self._micro_batches(self._eval, first // size, self.eval_sequences - first)

    @property
    def eval_sequences(self) -> int:
        """How many sequences one evaluation scores: whole batches, each existing sequence at most once."""
        size = self.plan.batch_sequences
        asked = -(-self.plan.eval.tokens // self.plan.tokens_per_step) * size
        distinct: int | None = getattr(self._eval, "distinct", None)
        return asked if distinct is None else min(asked, distinct)

    @property
    def eval_micro_batches(self) -> int:
        """How many micro-batches one evaluation reads."""
        micro = self.plan.batch_sequences // self.plan.accumulate
        return -(-self.eval_sequences // micro)

    def _micro_batches(self, stream: Stream, step: int, scored: int | None = None) -> Iterator[TensorBatch]:
        """Cut batch `step` into micro-batches, and each of them into the equal shares of the ranks.

        Only the first `scored` sequences have targets, by default all. The others are there so that the last
        micro-batch has the same shape as the rest; a micro-batch without any target is left out.
        """
        size = self.plan.batch_sequences
        rank, ranks = (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
        if size // self.plan.accumulate % ranks:
            raise DataError(
                f"a micro-batch of {size // self.plan.accumulate} sequences does not divide among "
                f"{ranks} devices; change batch_tokens, accumulate or devices"
            )
        share = size // self.plan.accumulate // ranks
        batch = stream.batch(step, size)
        wanted = size if scored is None else min(scored, size)
        if wanted < size:
            targets = batch.targets.copy()
            targets[wanted:] = IGNORED
            batch = batch._replace(targets=targets)
        for first in range(rank * share, size, ranks * share):
            if first - rank * share >= wanted:
                break
            yield {name: torch.tensor(rows[first : first + share]) for name, rows in batch._asdict().items()}


class TrainBatches:
    """The remaining training batches; without a length, which Lightning would take for that of an epoch."""

    def __init__(self, data: SpecData) -> None:
        self.data = data

    def __iter__(self) -> Iterator[TensorBatch]:
        return self.data.train_batches()


class EvalBatches:
    """The batches of one evaluation; can be iterated repeatedly."""

    def __init__(self, data: SpecData) -> None:
        self.data = data

    def __len__(self) -> int:
        return self.data.eval_micro_batches

    def __iter__(self) -> Iterator[TensorBatch]:
        return self.data.eval_batches()
