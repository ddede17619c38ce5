"""The mean number of slots that a windowed or strided read takes, without unrolling loops. Torch-free."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from math import gcd, prod

from blocks.ir.numbers import largest, smallest, total
from blocks.ir.operation import LoopIndex
from blocks.ir.steps import OneStep

_Loops = Sequence[tuple[int, int]]
"""(stride, trips) of each loop that an index depends on."""


def windowed_mean(
    index: LoopIndex, trips: Mapping[str, int | OneStep], window: int | None, stride: int
) -> float:
    """Return the exact mean of ceil(min(index, window) / stride) over all executions.

    The time to compute it is bounded by window * stride, not by the number of trips.
    """
    if window is None and stride == 1:
        return index.mean(trips)
    for count in index.counts:
        steps = trips[count.loop]
        assert not isinstance(steps, OneStep), "costs of one step are asked of loops that skip nothing"
        parts = [index.from_step(count.loop, step, step + 1, steps) for step in range(steps)]
        return total(windowed_mean(part, trips, window, stride) for part in parts) / steps
    base, loops = index.base, []
    for name, grown in index.strides:
        steps = trips[name]
        if isinstance(steps, OneStep):
            base = base + grown * steps.step
        elif grown:
            loops.append((grown, steps))
    summed = _sum(base, _merged(loops), window, stride)
    return summed / largest(1, prod(steps for _, steps in loops))


def _merged(loops: _Loops) -> _Loops:
    """Return the loops, innermost first; two that count through one range are merged."""
    merged: list[tuple[int, int]] = []
    for grown, steps in sorted(loops, key=lambda loop: loop[0]):
        if merged and merged[-1][0] * merged[-1][1] == grown:
            merged[-1] = (merged[-1][0], merged[-1][1] * steps)
        else:
            merged.append((grown, steps))
    return merged


def _sum(base: int, loops: _Loops, window: int | None, stride: int) -> float:
    if window is None:
        return _ceilings(base, loops, stride)
    most = -(-window // stride)
    if not loops:
        return smallest(-(-base // stride), most)
    *inner, (grown, steps) = loops
    # the steps before the window is full
    short = smallest(steps, largest(0, -((base - window) // grown)))
    full = (steps - short) * prod(each for _, each in inner) * most
    if not inner:
        return _ceilings(base, [(grown, short)], stride) + full
    return total(_sum(base + grown * step, inner, window, stride) for step in range(short)) + full


def _ceilings(base: int, loops: _Loops, stride: int) -> float:
    """Return the sum of ceil(index / stride), by counting the executions with each remainder."""
    runs = prod(steps for _, steps in loops)
    plain = runs * (base + total(grown * (steps - 1) / 2 for grown, steps in loops))
    if stride == 1:
        return plain
    remainders = Counter({-base % stride: 1})
    for grown, steps in loops:
        period = stride // gcd(grown, stride)
        turned: Counter[int] = Counter()
        for step in range(min(period, steps)):
            times = -((step - steps) // period)
            for remainder, count in remainders.items():
                turned[(remainder - grown * step) % stride] += count * times
        remainders = turned
    return (plain + total(remainder * count for remainder, count in remainders.items())) / stride
