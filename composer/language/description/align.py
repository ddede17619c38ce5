"""Aligns the parts of two specs: blocks by name and role, entries of steps in order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeAlias, TypeVar

from composer.language.schema.identity import arch_hash
from composer.language.schema.levels import Sublayer, long_form
from composer.language.schema.spec import BlockUse, Parallel, Spec, Stage, used

T = TypeVar("T")
Entry: TypeAlias = Sublayer | Stage

_GAP = 1.0
_ANYTHING = 1.9  # below two gaps: at one place, other entries are a replacement
_OTHER_BLOCK = 1.5
_REGROUPED = 0.4
_PAIRS = 10_000
"""Pairs that are compared with each other at most."""


def block_pairs(a: Spec, b: Spec) -> dict[str, str]:
    """Map blocks of `a` to blocks of `b`: equal architectures by order of use, others by name, then by role.

    Of one role are blocks of one type; the most similar pair first. What is left and has one name is the
    same block with another type.
    """
    if arch_hash(a) == arch_hash(b):
        return dict(zip(dict.fromkeys(a.used()), dict.fromkeys(b.used()), strict=True))

    def alike(x: str, y: str) -> bool:
        return a.blocks[x].type == b.blocks[y].type

    pairs = {name: name for name in a.blocks if name in b.blocks and alike(name, name)}
    rest = [name for name in b.blocks if name not in pairs]
    likest = [(x, y) for x in a.blocks if x not in pairs for y in rest if alike(x, y)]
    if len(likest) <= _PAIRS:
        # else the first of a role is taken for the first, and so on
        here, there = _places(a), _places(b)

        def unlike(pair: tuple[str, str]) -> float:
            x, y = pair
            return -_likeness(a, b, x, y, here[x], there[y])

        likest.sort(key=unlike)
    taken = set(pairs.values())
    for x, y in likest:
        if x not in pairs and y not in taken:
            pairs[x] = y
            taken.add(y)
    left = {name: name for name in a.blocks if name not in pairs and name in b.blocks}
    return pairs | {name: name for name in left if name not in pairs.values()}


def _places(spec: Spec) -> dict[str, set[int]]:
    """Return the places of use of each block, counted in the order of stages."""
    places: dict[str, set[int]] = {name: set() for name in spec.blocks}
    for n, name in enumerate(spec.used()):
        places[name].add(n)
    return places


def _likeness(a: Spec, b: Spec, x: str, y: str, here: set[int], there: set[int]) -> float:
    """Return how alike two blocks of one type are: the share of equal fields, and of places of use."""
    one, two = a.blocks[x].model_dump(), b.blocks[y].model_dump()
    fields: float = sum(one[key] == two.get(key) for key in one) / len(one)
    return fields + len(here & there) / len(here | there)


@dataclass(frozen=True)
class Match(Generic[T]):
    """Aligned pairs in order; one side is empty where something was added or removed."""

    before: tuple[T, ...]
    after: tuple[T, ...]
    first_before: int
    first_after: int


def align(
    before: Sequence[T],
    after: Sequence[T],
    cost: Callable[[tuple[T, ...], tuple[T, ...]], float],
    widest: int,
) -> list[Match[T]]:
    """Align two sequences with the smallest sum of costs.

    `cost` gives what it takes to turn one run of items into another, infinity where it is no match; at
    least one of the runs is of one item, and none is longer than `widest`. Equal ends are matched first; what
    is too long for all ways to be compared is matched place by place.
    """
    if len(before) * len(after) * widest <= _PAIRS:
        return _aligned(before, after, cost, widest)
    shorter = min(len(before), len(after))
    ahead = next((n for n in range(shorter) if cost((before[n],), (after[n],))), shorter)
    most = shorter - ahead
    behind = next((n for n in range(most) if cost((before[-1 - n],), (after[-1 - n],))), most)
    one, two = before[ahead : len(before) - behind], after[ahead : len(after) - behind]
    if len(one) * len(two) * widest > _PAIRS:
        return _by_place(before, after)
    middle = [
        replace(match, first_before=match.first_before + ahead, first_after=match.first_after + ahead)
        for match in _aligned(one, two, cost, widest)
    ]
    first = _by_place(before[:ahead], after[:ahead])
    ends = ((len(before) - n, len(after) - n) for n in range(behind, 0, -1))
    return [*first, *middle, *(Match((before[i],), (after[j],), i, j) for i, j in ends)]


def _by_place(before: Sequence[T], after: Sequence[T]) -> list[Match[T]]:
    """Pair elements at the same position."""
    return [
        Match(tuple(before[n : n + 1]), tuple(after[n : n + 1]), min(n, len(before)), min(n, len(after)))
        for n in range(max(len(before), len(after)))
    ]


def _aligned(
    before: Sequence[T],
    after: Sequence[T],
    cost: Callable[[tuple[T, ...], tuple[T, ...]], float],
    widest: int,
) -> list[Match[T]]:
    """Compare all ways to align two sequences."""
    shapes = [(1, 1), (1, 0), (0, 1)]
    shapes += [shape for n in range(2, widest + 1) for shape in ((n, 1), (1, n))]
    here, there = len(before), len(after)
    # what the rest costs from each point on, and how it begins; of equal ways the one that matches first
    best: dict[tuple[int, int], tuple[float, tuple[int, int]]] = {(here, there): (0.0, (0, 0))}
    for i in range(here, -1, -1):
        for j in range(there, -1, -1):
            steps = (
                (best[i + m, j + n][0] + _price(before[i : i + m], after[j : j + n], cost), (m, n))
                for m, n in shapes
                if i + m <= here and j + n <= there
            )
            if i < here or j < there:
                best[i, j] = min(steps, key=lambda step: step[0])
    matches = []
    i = j = 0
    while i < here or j < there:
        m, n = best[i, j][1]
        matches.append(Match(tuple(before[i : i + m]), tuple(after[j : j + n]), i, j))
        i, j = i + m, j + n
    return matches


def _price(
    before: Sequence[T], after: Sequence[T], cost: Callable[[tuple[T, ...], tuple[T, ...]], float]
) -> float:
    return cost(tuple(before), tuple(after)) if before and after else _GAP * (len(before) + len(after))


def align_entries(
    before: Sequence[Entry], after: Sequence[Entry], names: dict[str, str]
) -> list[Match[Entry]]:
    """Align two steps; `names` maps blocks of the first spec to those of the second.

    Blocks that stand in a row on one side and in parallel on the other answer to each other.
    """
    mixes = [len(entry.parallel) for entry in (*before, *after) if isinstance(entry, Parallel)]

    def cost(one: tuple[Entry, ...], two: tuple[Entry, ...]) -> float:
        if len(one) == len(two) == 1:
            return _entry_cost(one[0], two[0], names)
        return _REGROUPED if _regrouped(one, two, names) else float("inf")

    return align(before, after, cost, max(mixes, default=1))


def align_stages(
    before: Sequence[Stage], after: Sequence[Stage], names: dict[str, str]
) -> list[Match[Stage]]:
    """Align the stages of two specs."""
    options = {id(stage): stage.changed_options() for stage in (*before, *after)}
    # stages are often alike
    texts = {id(stage): repr(stage) for stage in (*before, *after)}
    known: dict[tuple[str, str], float] = {}

    def cost(one: tuple[Stage, ...], two: tuple[Stage, ...]) -> float:
        pair = texts[id(one[0])], texts[id(two[0])]
        if pair not in known:
            known[pair] = _entry_cost(one[0], two[0], names, options)
        return known[pair]

    return align(before, after, cost, 1)


def _regrouped(one: tuple[Entry, ...], two: tuple[Entry, ...], names: dict[str, str]) -> bool:
    row, mix = (one, two[0]) if len(two) == 1 else (two, one[0])
    if not isinstance(mix, Parallel) or not all(isinstance(entry, str | BlockUse) for entry in row):
        return False
    blocks = [name for entry in row for name in used(entry)]
    grouped = [_known(name, names) if row is one else name for name in blocks]
    wanted = [name if row is one else _known(name, names) for name in mix.parallel]
    return Counter(grouped) == Counter(wanted)


def _known(name: str, names: dict[str, str]) -> str:
    """Return the second spec's name for a block of the first, or one that no block has."""
    return names.get(name, f"{name} of the first")


def _entry_cost(
    one: Entry, two: Entry, names: dict[str, str], options: Mapping[int, Any] | None = None
) -> float:
    """Return how unlike two entries are; `options` are the changed ones of stages, by identity."""
    if isinstance(one, str | BlockUse) and isinstance(two, str | BlockUse):
        if isinstance(one, str) and isinstance(two, str):  # both at their defaults
            return 0.0 if _known(one, names) == two else _OTHER_BLOCK
        one, two = long_form(one), long_form(two)
        other = 0.1 * (one.changed_options() != two.changed_options())
        return other if _known(one.use, names) == two.use else _OTHER_BLOCK + other
    shared = alike(one, two, names)
    if isinstance(one, Parallel) and isinstance(two, Parallel):
        other = 0.1 * (one.changed_options() != two.changed_options())
        return (_ANYTHING - other) * (1 - shared) + other
    if not isinstance(one, Stage) or not isinstance(two, Stage):
        # a block that now stands in parallel with others, or in a stage of its own
        same_kind = type(one) is type(two)
        return _ANYTHING - shared * (_ANYTHING if same_kind else 1.0)
    trips = one.trips != two.trips or (one.tied and two.tied and one.recur != two.recur)
    other = 0.2 * (one.tied != two.tied) + 0.1 * trips
    changed = [options[id(each)] if options else each.changed_options() for each in (one, two)]
    other += 0.1 * (changed[0] != changed[1])
    return (_ANYTHING - 0.4) * (1 - shared) + other


def alike(one: Entry, two: Entry, names: dict[str, str]) -> float:
    """Return the share of blocks that two entries have in common."""
    here = Counter(_known(name, names) for name in used(one))
    there = Counter(used(two))
    shared: float = (here & there).total() / (here | there).total()
    return shared
