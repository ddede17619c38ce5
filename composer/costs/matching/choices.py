"""Sizes that a matched spec may take: options for coarse sizes, axes for sizes that are solved for."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor, inf, log, log2
from typing import TypeAlias

from composer.costs.fitting.tunables import Numbers, Tunable
from composer.costs.matching.shape import (
    SHAPING,
    WIDTH,
    Attention,
    Hidden,
    Limits,
    Sizes,
    distance,
    path,
    weight,
)

Combination: TypeAlias = tuple[int, ...]
"""Which option of each dimension."""

# steps between neighbouring options, as a share of the value
_STEP = 0.06
_WIDTH_STEP = 1 / 64
_OTHER_FACTOR = 8
_ACTIVE_FACTOR = 4
_MOST_EXPERTS = 64


@dataclass(frozen=True)
class Option:
    """One way to set the sizes of one kind.

    Attributes:
        values: sizes by path.
        distance: how far it is from the base's shape.
        order: its position among the options of its kind, from small to large.
    """

    values: Sizes
    distance: float
    order: float


@dataclass(frozen=True)
class Axis:
    """A size to solve for, shared by one or more blocks that keep their proportions.

    Attributes:
        field: `hidden` or `experts`.
        blocks: the bounds of the blocks; the first one's size is the level.
        base: their sizes, in the same order.
        grains: the number that each size is a multiple of.
    """

    field: str
    blocks: tuple[Hidden, ...]
    base: tuple[int, ...]
    grains: tuple[int, ...]

    @property
    def start(self) -> int:
        """The level of the base, or the level next to it."""
        return max(round(self.base[0] / self.grains[0]), 1)

    def distance(self, level: int) -> float:
        """Return the distance of a level from the base's shape."""
        return weight(self.field) * abs(log2(level * self.grains[0] / self.base[0]))

    def values(self, level: int) -> dict[str, int]:
        """Return the sizes by path at a level, in units of the first block's grain."""
        first = level * self.grains[0]
        sizes = {path(self.blocks[0].name, self.field): first}
        for block, base, grain in zip(self.blocks[1:], self.base[1:], self.grains[1:], strict=True):
            scaled = first * base / self.base[0]
            sizes[path(block.name, self.field)] = max(round(scaled / grain), 1) * grain
        return sizes

    def levels(self, now: Sizes) -> tuple[int, int]:
        """Return the least and the largest level within the bounds, the other sizes being `now`."""
        low, high = 1.0, inf
        for block, base in zip(self.blocks, self.base, strict=True):
            least, most = self._span(block, now, base)
            low, high = max(low, least * self.base[0] / base), min(high, most * self.base[0] / base)
        return ceil(low / self.grains[0] - 1e-9), floor(high / self.grains[0] + 1e-9)

    def _span(self, block: Hidden, now: Sizes, base: int) -> tuple[float, float]:
        active = block.active(now)
        if self.field == "hidden":
            return block.ratio[0] * now[WIDTH] / active, block.ratio[1] * now[WIDTH] / active
        assert block.sparsity is not None
        return block.sparsity * active, max(_MOST_EXPERTS * base, 2 * block.sparsity * active)


def axes(free: Sequence[Tunable], limits: Limits, *, fine: bool = False) -> list[Axis]:
    """Return the axes of the free tunables; with `fine`, dense hidden sizes move in small steps."""
    known = {tunable.path: tunable for tunable in free}
    movable = []
    for field in ("hidden", "experts"):
        blocks = [each for each in limits.hidden if _solved_for(known.get(path(each.name, field)))]
        if blocks:
            tunables = [known[path(each.name, field)] for each in blocks]
            # rows of experts have to be multiples of 8
            grains = (
                min(tunable.grain, 2) if fine and each.sparsity is None else tunable.grain
                for each, tunable in zip(blocks, tunables, strict=True)
            )
            movable.append(
                Axis(field, tuple(blocks), tuple(tunable.value for tunable in tunables), tuple(grains))
            )
    return movable


def _solved_for(tunable: Tunable | None) -> bool:
    return tunable is not None and tunable.grid is None


def dimensions(
    free: Sequence[Tunable], limits: Limits, effects: Callable[[Tunable, int], Sizes], *, apart: bool = False
) -> list[list[Option]]:
    """Return the options for each kind of coarse size, nearest first; the first option changes nothing.

    Args:
        free: the tunables that may move.
        limits: the bounds.
        effects: returns the sizes, by path, that another value of a tunable sets.
        apart: whether the heads of each block change independently of other blocks.
    """
    known = {tunable.path: tunable for tunable in free}
    options: list[Iterable[Mapping[str, int]]] = []
    if WIDTH in known:
        options.append({WIDTH: value} for value in _widths(known[WIDTH], limits))
    if heads := [each for each in limits.attention if _names(each, "heads", "head_dim") & known.keys()]:
        options += [_heads(each, known, limits) for each in ([[one] for one in heads] if apart else [heads])]
    if mixtures := [each for each in limits.hidden if path(each.name, "active") in known]:
        options.append(_active(mixtures, limits.base))
    blocks = [each.name for each in limits.attention] + [each.name for each in limits.hidden]
    shaping = {path(name, field) for name in blocks for field in SHAPING}
    for tunable in free:
        if tunable.path != WIDTH and (tunable.path not in shaping or tunable.grid is not None):
            options.append([effects(tunable, value) for value in _others(tunable)])
    return [_sorted(each, limits) for each in options]


def _names(block: Attention, *fields: str) -> set[str]:
    return {path(block.name, field) for field in fields}


def _sorted(each: Iterable[Mapping[str, int]], limits: Limits) -> list[Option]:
    base = limits.base
    options = [
        Option(values, distance(base, values), sum(log(value) for value in values.values()))
        for values in each
    ]
    # an option that changes nothing is there in any case
    options.append(Option({}, 0.0, sum(log(base[key]) for key in (options[0].values if options else ()))))
    changed = (option for option in options if any(base[key] != now for key, now in option.values.items()))
    kept = {tuple(sorted(option.values.items())): option for option in changed}
    return [options[-1], *sorted(kept.values(), key=lambda option: (option.distance, option.order))]


def _widths(tunable: Tunable, limits: Limits) -> Iterator[int]:
    grain = tunable.grain
    while 2 * grain <= tunable.value * _WIDTH_STEP:
        grain *= 2
    low, high = limits.width
    for times in range(ceil(low / grain - 1e-9), floor(high / grain + 1e-9) + 1):
        yield max(times, 1) * grain


def _heads(
    blocks: Sequence[Attention], known: Mapping[str, Tunable], limits: Limits
) -> Iterator[dict[str, int]]:
    """Yield heads, head sizes and groups; blocks with equal heads keep equal heads."""
    first, base = blocks[0], limits.base
    heads, head_dim = base[path(first.name, "heads")], base[path(first.name, "head_dim")]
    wide = [each for each in blocks if path(each.name, "heads") in known]
    deep = [each for each in blocks if path(each.name, "head_dim") in known]
    most = first.ratio[1] * limits.width[1]
    for size in first.head_dims if first in deep else (head_dim,):
        for group in first.groups:
            count = max(floor(most / size / group + 1e-9), 1)
            counts = [group * n for n in _thinned(range(1, count + 1))] if first in wide else []
            for number in dict.fromkeys([*counts, heads]):
                values: dict[str, int] = {}
                for each in blocks:
                    values |= _of_block(each, number / heads, size, group, base, (each in wide, each in deep))
                if values:
                    yield values


def _of_block(
    block: Attention, factor: float, size: int, group: int, base: Sizes, free: tuple[bool, bool]
) -> dict[str, int]:
    """Return the sizes of one block for a factor on its heads, a head size and a group size."""
    heads, kv_heads, head_dim = (base[path(block.name, field)] for field in ("heads", "kv_heads", "head_dim"))
    if free[0]:
        own = group if group in block.groups else heads // kv_heads
        wanted = max(round(heads * factor / own), 1) * own
        heads, kv_heads = wanted, wanted // own
    if free[1] and size in block.head_dims:
        head_dim = size
    sizes = {"heads": heads, "kv_heads": kv_heads, "head_dim": head_dim}
    return {path(block.name, field): value for field, value in sizes.items()}


def _active(blocks: Sequence[Hidden], base: Sizes) -> Iterator[dict[str, int]]:
    first = base[path(blocks[0].name, "active")]
    for value in _thinned(range(1, _ACTIVE_FACTOR * max(first, 2) + 1)):
        yield {
            path(each.name, "active"): max(round(base[path(each.name, "active")] * value / first), 1)
            for each in blocks
        }


def _others(tunable: Tunable) -> list[int]:
    least, most = max(tunable.value // _OTHER_FACTOR, 1), tunable.value * _OTHER_FACTOR
    ranks = range(tunable.sensible.rank(least - 1) + 1, tunable.sensible.rank(most) + 1)
    return _thinned(Numbers(tunable.sensible, ranks))


def _thinned(values: Sequence[int]) -> list[int]:
    """Return spaced values of a sorted list, including the first and the last."""
    kept, at = [], 0
    while at < len(values):
        kept.append(values[at])
        at = max(at + 1, min(bisect_left(values, kept[-1] * (1 + _STEP), at), len(values) - 1))
    return kept
