"""The formulas of floors reproduce the figures that were computed apart from them."""

from __future__ import annotations

import pytest

from blocks.depth_attention import backward_method
from composer.bench.measuring import floors
from composer.bench.measuring.floors import Heads

TOKENS, COPY = 32768, 3.0e12
# milliseconds of one step forward, by kv heads and slots read
FORWARD = {
    (16, 4): 0.223,
    (16, 16): 0.760,
    (16, 32): 1.475,
    (4, 4): 0.089,
    (4, 16): 0.223,
    (4, 32): 0.402,
}
# of the backward pass of a loop of 16 steps, by kv heads, way and bytes of an element of its sums
LOOP = {
    (16, "pull", 4): 15.2,
    (16, "push", 4): 31.9,
    (4, "pull", 4): 9.6,
    (4, "push", 2): 6.0,
    (4, "push", 4): 9.0,
}


def milliseconds(moved):
    return 1e3 * TOKENS * moved / COPY


@pytest.mark.parametrize(("at", "expected"), FORWARD.items())
def test_forward(at, expected):
    kv_heads, reads = at
    time = milliseconds(floors.depth_forward(Heads(16, kv_heads, 64), reads))
    assert time == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize(("at", "expected"), LOOP.items())
def test_the_backward_pass_of_a_loop(at, expected):
    kv_heads, way, sums = at
    time = milliseconds(floors.depth_loop(Heads(16, kv_heads, 64), 16, way, sums))
    assert time == pytest.approx(expected, abs=0.05)


def test_one_step_is_forward_and_its_backward_and_every_gradient_once():
    at = Heads(16, 4, 64)
    assert floors.depth_both(at, 4) == 2 * (6 * 16 * 64 + 6 * 4 * 4 * 64)


def test_the_ways_are_told_apart_as_the_kernels_tell_them():
    """The plan leaves out what both ways move, and counts what zeroes and casts the sums."""
    at, steps = Heads(16, 4, 64), 16
    both = sum(floors.depth_to_query(at, reads) for reads in range(1, steps + 1))
    assert floors.depth_loop(at, steps, "pull") - both == backward_method.pull_bytes(16, 4, 64, steps, 2)
    slots = steps * (16 + 2 * 2) * 4 * 64
    assert (
        floors.depth_loop(at, steps, "push") - both == backward_method.push_bytes(16, 4, 64, steps, 2) - slots
    )


def test_routing_reads_logits_and_writes_weights_indices_and_places():
    assert floors.routing(256, 8) == 4 * 256 + 8 * (4 + 4 + 4)
