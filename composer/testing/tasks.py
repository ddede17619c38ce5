"""What every task has to hold, as functions of its config."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from composer.data.base.config import DataConfig
from composer.data.base.split import Split
from composer.data.base.stream import IGNORED, Batch
from composer.testing.find import find_task
from composer.testing.run import Finding, examined

SPLITS: tuple[Split, ...] = ("train", "eval")
_SIZE = 7


def _batch(config: DataConfig, split: Split, seed: int = 3, step: int = 5, size: int = _SIZE) -> Batch:
    return config.stream(split, seed).batch(step, size)


def _equal(one: Batch, other: Batch) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def check_shapes(config: DataConfig) -> None:
    """Tokens and targets are int64 of [size, length], groups of [size]."""
    for split in SPLITS:
        batch = _batch(config, split)
        shapes = [(rows.dtype.name, rows.shape) for rows in batch]
        rows, groups = ("int64", (_SIZE, config.length)), ("int64", (_SIZE,))
        assert shapes == [rows, rows, groups], f"{split}: expected {[rows, rows, groups]}, got {shapes}"


def check_vocabulary(config: DataConfig) -> None:
    """Tokens and scored targets are ids below `vocab_needed`, and some positions are scored."""
    for split in SPLITS:
        batch, most = _batch(config, split, size=64), config.vocab_needed
        scored = batch.targets[batch.targets != IGNORED]
        assert scored.size, f"{split}: no position of 64 sequences is scored"
        for name, ids in (("tokens", batch.tokens), ("targets", scored)):
            low, high = int(ids.min()), int(ids.max())
            assert 0 <= low <= high < most, (
                f"{split}: {name} from {low} to {high}, declared are 0 .. {most - 1}"
            )


def check_groups(config: DataConfig) -> None:
    """Every sequence is of a declared group, or of -1, which is none."""
    known = {-1, *(config.group_names or ())}
    for split in SPLITS:
        groups = set(_batch(config, split, size=64).group.tolist())
        assert groups <= known, (
            f"{split}: groups {sorted(groups - known)}, declared are {sorted(known - {-1})}"
        )


def check_functions(config: DataConfig) -> None:
    """A batch is a function of the split, the seed, its number and its size, in any order of asking."""
    for split in SPLITS:
        first, stream = _batch(config, split), config.stream(split, 3)
        other = stream.batch(6, _SIZE)
        assert _equal(first, stream.batch(5, _SIZE)), (
            f"{split}: batch 5 differs when batch 6 was asked before"
        )
        # what begins again after a number of sequences may have few of them
        again = getattr(stream, "distinct", None) is not None
        assert again or not np.array_equal(first.tokens, other.tokens), (
            f"{split}: batches 5 and 6 are the same"
        )
    one, two = (_batch(config, "train", seed).tokens for seed in (3, 4))
    assert not np.array_equal(one, two), "train: seeds 3 and 4 give the same batch"


def check_splits(config: DataConfig) -> None:
    """No sequence of eval is one of train, whatever the seeds."""
    rows = {
        split: {row.tobytes() for seed in range(3) for row in _batch(config, split, seed, size=500).tokens}
        for split in SPLITS
    }
    shared = len(rows["train"] & rows["eval"])
    assert not shared, f"{shared} sequences of eval are in train, too"


CHECKS: Mapping[str, Callable[[DataConfig], None]] = {
    "shapes": check_shapes,
    "vocabulary and targets": check_vocabulary,
    "groups": check_groups,
    "functions of seed and step": check_functions,
    "train and eval apart": check_splits,
}


def conformance(name: str, settings: Sequence[str] = ()) -> Iterator[Finding]:
    """Yield what each check finds with a task, of its name or `package.module:Class`, and fields of it.

    Raises:
        UnknownName: there is no such task.
        SpecError: the fields are not valid.
    """
    config = find_task(name, settings)
    return examined({config.task: config}, CHECKS)
