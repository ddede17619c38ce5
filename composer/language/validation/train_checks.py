"""Checks of `train` beyond types: how batches divide, the optimizer, the schedule."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from blocks.wiring.optimizer import OptimizerChoice
from composer.language.schema.spec import Schedule, Train
from composer.settings.errors import Fault, shown
from composer.settings.tree import Node, fault_at


def train_faults(train: Train, tree: Node) -> Iterator[Iterator[Fault]]:
    """Yield the faults of each check, apart from those of the data; `train` may be valid in part only."""
    yield from (_batches(train, tree), _optimizer(train, tree), _schedule(train, tree))


def _batches(train: Train, tree: Node) -> Iterator[Fault]:
    if train.batch_sequences < 1:
        expected = f"room for a sequence of {train.length} tokens"
        yield fault_at(tree, ("train", "batch_tokens"), expected, shown(train.batch_tokens))
    elif train.batch_sequences % train.accumulate:
        expected = f"a divisor of the {train.batch_sequences} sequences of a batch"
        yield fault_at(tree, ("train", "accumulate"), expected, shown(train.accumulate))
    elif train.devices != "auto" and train.batch_sequences // train.accumulate % train.devices:
        expected = f"a divisor of the {train.batch_sequences // train.accumulate} sequences of a micro-batch"
        yield fault_at(tree, ("train", "devices"), expected, shown(train.devices))


def _optimizer(train: Train, tree: Node) -> Iterator[Fault]:
    option = train.option(OptimizerChoice)
    if train.strategy == "fsdp" and not option.takes_shards:
        expected = "one that can update parts of a weight, since strategy is fsdp"
        yield fault_at(tree, ("train", option.key), expected, option.name)


def _schedule(train: Train, tree: Node) -> Iterator[Fault]:
    usual, shape, decay = Schedule.model_fields["shape"].default, train.schedule.shape, train.schedule.decay
    if shape == usual:
        return
    path = ("train", "schedule", "shape")
    if decay == 0:
        yield replace(fault_at(tree, path, f"{usual}, since decay is 0", shape), unread=True)
    elif train.batch_sequences and train.decay_steps < 2:
        steps = f"{train.decay_steps} of {train.steps} optimizer step{'s' * (train.steps > 1)}"
        expected = f"{usual}, since decay is {decay:g}, which is {steps} and leaves nothing to shape"
        hint = "raise train.tokens or decay"
        yield replace(fault_at(tree, path, expected, shape, hint), unread=True)
