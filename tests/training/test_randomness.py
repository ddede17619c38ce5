"""Keys of random numbers: functions of the seed, the optimizer step and the row of its batch."""

import torch

from blocks.ir.graph import Graph
from composer.module.randomness import Randomness

GRAPH = Graph(["tokens", "targets", "key"])
TOKENS = torch.zeros(4, 3, dtype=torch.long)


def keys(randomness, tokens=TOKENS, training=True):
    (found,) = randomness.keys(GRAPH, tokens, training)
    return found


def test_micro_batches_of_a_step_draw_what_the_whole_batch_draws():
    whole, parts = Randomness(3), Randomness(3)
    for step in (0, 0, 5):
        whole.start()
        whole.at(step)
        expected = keys(whole, torch.zeros(8, 3))
        found = []
        for _ in range(2):
            parts.at(step)
            found.append(keys(parts))
        assert torch.equal(torch.cat(found), expected)
        parts.start()


def test_steps_rows_and_seeds_differ_and_evaluation_is_one_for_all():
    first = Randomness(0)
    seen = {*keys(first).tolist(), *keys(Randomness(1)).tolist()}
    first.passed()
    seen |= {*keys(first).tolist()}
    assert len(seen) == 12
    fixed = keys(first, training=False)
    assert len({*fixed.tolist()}) == 1
    assert torch.equal(keys(Randomness(0), training=False), fixed)


def test_a_model_that_draws_nothing_takes_no_key():
    assert Randomness(0).keys(Graph(["tokens", "targets"]), TOKENS, True) == []
