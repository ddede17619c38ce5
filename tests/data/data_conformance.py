"""What every task promises; a test of a task calls these with a small config of it."""

import numpy as np

from composer.data.base.stream import IGNORED, held_out


def check_batches(config):
    """Shapes and ids are as declared, batches are functions of (split, seed, step, size), splits differ."""
    for split in ("train", "eval"):
        batch = config.stream(split, 3).batch(5, 7)
        assert [rows.dtype for rows in batch] == [np.int64] * 3
        assert batch.tokens.shape == batch.targets.shape == (7, config.length)
        assert batch.group.shape == (7,)
        assert 0 <= batch.tokens.min() <= batch.tokens.max() < config.vocab_needed
        scored = batch.targets[batch.targets != IGNORED]
        assert scored.size
        assert 0 <= scored.min() <= scored.max() < config.vocab_needed
        assert set(batch.group) <= set(config.group_names or {-1: ""})
        again = config.stream(split, 3)
        again.batch(6, 2)
        assert all(np.array_equal(a, b) for a, b in zip(batch, again.batch(5, 7), strict=True))
        assert not np.array_equal(batch.tokens, again.batch(6, 7).tokens)
    train = config.stream("train", 3)
    assert not np.array_equal(train.batch(5, 7).tokens, config.stream("train", 4).batch(5, 7).tokens)


def check_disjoint_by_hash(config, key=lambda tokens: tokens):
    """Eval owns exactly what the hash of the row gives it, so that seeds cannot matter."""
    for seed in range(3):
        assert held_out(key(config.stream("eval", seed).batch(seed, 50).tokens)).all()
        assert not held_out(key(config.stream("train", seed).batch(seed, 500).tokens)).any()
