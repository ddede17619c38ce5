"""Numbers of steps other than those of evaluation: what training runs, and specs with other numbers.

Numbers stand by the place of their stage, such as `stages.0`, or `stages.0.1` for a stage nested in it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, product
from math import prod
from typing import TypeAlias

from blocks.ir.numbers import total as sum_of
from blocks.wiring.train import Phase, TrainedSteps
from composer.language.schema.at import runs_at
from composer.language.schema.levels import Sublayer
from composer.language.schema.recur import Recur
from composer.language.schema.row_steps import RowSteps, largest_of, micro_batch_rows
from composer.language.schema.spec import Spec, Stage

Numbers: TypeAlias = Mapping[str, int]
"""Numbers of steps by place; `RowSteps` where they differ between the rows of a batch."""

Steps: TypeAlias = int | Numbers
"""A number of steps of the only recurrent stage, or numbers by place."""

MOST_STEPS = 1_000_000
"""The most steps that a stage may run, those of nested ones multiplied."""

_UNKNOWN = 1_000_000
"""Optimizer steps where there is no `train` section, for the numbers that can occur."""


@dataclass(frozen=True)
class StepRange:
    """The numbers of steps of one stage in training: their expectation, the smallest and the largest.

    With a number for each sequence they are the largest of a micro-batch, which is what runs.
    """

    expected: float
    least: int
    most: int


def trained_steps(spec: Spec) -> dict[str, StepRange]:
    """Return the range of each stage whose number of steps in training is not always that of evaluation."""
    ranges = {}
    for place, phases in _running(spec).items():
        parts = [
            (share, n)
            for length, phase in _lengths(phases, _total(spec))
            for share, n in _parts(length, phase)
        ]
        numbers = [n for _, n in parts]
        ranges[place] = StepRange(sum_of(share * n for share, n in parts), min(numbers), max(numbers))
    return ranges


def most_steps(spec: Spec) -> dict[str, int]:
    """Return the largest numbers of steps in training of the stages for which they are stated."""
    apart = _rows_apart(spec)
    return {
        place: RowSteps(each.most) if place in apart else each.most
        for place, each in trained_steps(spec).items()
    }


def step_mix(spec: Spec) -> list[tuple[float, dict[str, int]]]:
    """Return what training runs: numbers of steps of these stages, with the share of training that has them.

    Stages draw independently of each other. Shares add up to 1; a spec without such stages has one share.
    """
    phases, whole, apart = _running(spec), _total(spec), _rows_apart(spec)
    starts = [0, *sorted({phase.start for each in phases.values() for phase in each if phase.start})]
    mix = []
    for start, end in zip(starts, [*starts[1:], whole], strict=True):
        now = [_at(each, start) for each in phases.values()]
        length = (end - start) / whole if len(starts) > 1 else 1.0
        for numbers in product(*(zip(phase.numbers, phase.shares, strict=True) for phase in now)):
            share = length * prod(share for _, share in numbers)
            if share:
                run = ((place, n) for place, (n, _) in zip(phases, numbers, strict=True))
                mix.append((share, {place: RowSteps(n) if place in apart else n for place, n in run}))
    return mix


def recurrent_place(spec: Spec) -> str:
    """Return the place of the only recurrent stage.

    Raises:
        ValueError: there is none, or several.
    """
    places = [place for place, stage in all_stages(spec.stages).items() if stage.tied]
    if len(places) != 1:
        hint = f"; name the stage, such as {places[0]}" if places else ""
        got = " and ".join(places) or "none"
        raise ValueError(f"expected one recurrent stage for a number of steps, got {got}{hint}")
    return places[0]


def trained_numbers(stage: Stage) -> list[int]:
    """Return the numbers of steps that a stage, not those nested in it, may run in training, where stated."""
    if not isinstance(stage.recur, Recur):
        return []
    return [n for phase in _option(stage).phases(stage.trips, _UNKNOWN) for n in phase.numbers]


def switches(spec: Spec) -> dict[str, list[int]]:
    """Return the optimizer steps at which the distribution of a stage changes, by place."""
    starts = {place: [phase.start for phase in each[1:]] for place, each in _phases(spec).items()}
    return {place: each for place, each in starts.items() if each}


def path_of(place: str) -> tuple[str | int, ...]:
    """Return the path of a stage in the spec: `stages.0.step.1` for `stages.0.1`."""
    first, number, *inner = place.split(".")
    return (first, int(number), *(each for n in inner for each in ("step", int(n))))


def combinations(stages: Iterable[Stage]) -> int:
    """Return how many combinations of numbers of steps training may run in one phase, at most."""
    return prod(
        max(len(phase.numbers) for phase in _option(stage).phases(stage.trips, _UNKNOWN))
        for stage in _sampled(stages).values()
    )


def drawn_steps(
    spec: Spec, optimizer_step: int, micro_batch: int, rows: int | None = None, rank: int = 0, ranks: int = 1
) -> dict[str, int]:
    """Return the numbers of steps of one micro-batch: a function of `train.seed` and where it stands.

    The same on every device, but for those of rows: `RowSteps` has the `rows` rows of one device, by default
    as many as the spec says, and the largest number of all devices. A row's number depends on its place in
    the batch of the optimizer step, however that is split. Stages that always run the number of evaluation
    are left out.
    """
    seed = spec.train.seed if spec.train else 0
    steps: dict[str, int] = {}
    apart = _rows_apart(spec)
    for place, phases in _phases(spec).items():
        phase, name = _at(phases, optimizer_step), f"{seed}:{place}:{optimizer_step}"
        if place in apart:
            own = micro_batch_rows(spec) // ranks if rows is None else rows
            first = micro_batch * own * ranks
            drawn = [_drawn(phase, f"{name}:row {first + n}") for n in range(own * ranks)]
            steps[place] = RowSteps(max(drawn), drawn[rank * own : (rank + 1) * own])
        else:
            steps[place] = _drawn(phase, f"{name}:{micro_batch}")
    return steps


def _drawn(phase: Phase, name: str) -> int:
    uniform = _random(name)
    reached = (n for n, end in zip(phase.numbers, accumulate(phase.shares), strict=True) if uniform < end)
    return next(reached, phase.numbers[-1])


def _random(name: str) -> float:
    """Return a number from 0 to 1 that is a function of a name."""
    digest = hashlib.blake2b(f"steps:{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _total(spec: Spec) -> int:
    return spec.train.steps if spec.train else _UNKNOWN


def _phases(spec: Spec) -> dict[str, Sequence[Phase]]:
    """Return the phases of each stage with other numbers in training, those that never begin left out."""
    whole = _total(spec)
    return {
        place: [phase for phase in _option(stage).phases(stage.trips, whole) if phase.start < whole]
        for place, stage in _sampled(spec.stages).items()
    }


def _running(spec: Spec) -> dict[str, Sequence[Phase]]:
    """Return the phases of what runs: of rows with numbers of their own the largest of a micro-batch."""
    apart, rows = _rows_apart(spec), micro_batch_rows(spec)
    return {
        place: [largest_of(phase, rows) for phase in phases] if place in apart else phases
        for place, phases in _phases(spec).items()
    }


def _rows_apart(spec: Spec) -> set[str]:
    """Return the places of the stages that have a number for each sequence in training."""
    stages = ((place, stage.recur) for place, stage in _sampled(spec.stages).items())
    return {place for place, recur in stages if isinstance(recur, Recur) and recur.per == "sequence"}


def _option(stage: Stage) -> TrainedSteps:
    assert isinstance(stage.recur, Recur)
    return stage.recur.option(TrainedSteps)


def _sampled(stages: Iterable[Stage]) -> dict[str, Stage]:
    """Return the stages whose number of steps in training is stated, by place."""
    return {place: stage for place, stage in all_stages(stages).items() if isinstance(stage.recur, Recur)}


def all_stages(stages: Iterable[Stage]) -> dict[str, Stage]:
    """Return all stages by place."""
    waiting = [(f"stages.{n}", stage) for n, stage in enumerate(stages)]
    stages_by_place = {}
    while waiting:
        place, stage = waiting.pop(0)
        stages_by_place[place] = stage
        inner = ((f"{place}.{n}", each) for n, each in enumerate(stage.step) if isinstance(each, Stage))
        waiting += inner
    return stages_by_place


def _at(phases: Sequence[Phase], step: int) -> Phase:
    """Return the phase of an optimizer step."""
    return [phase for phase in phases if phase.start <= step][-1]


def _lengths(phases: Sequence[Phase], whole: int) -> Iterator[tuple[float, Phase]]:
    """Yield each phase with its share of training."""
    ends = [*(phase.start for phase in phases[1:]), whole]
    for phase, end in zip(phases, ends, strict=True):
        yield (end - phase.start) / whole if len(phases) > 1 else 1.0, phase


def _parts(length: float, phase: Phase) -> Iterator[tuple[float, int]]:
    for n, share in zip(phase.numbers, phase.shares, strict=True):
        if share:
            yield length * share, n


def with_steps(spec: Spec, steps: Numbers) -> Spec:
    """Return a spec whose recurrent stages run other numbers of steps, by place, such as `stages.0`.

    Where a number is `RowSteps`, rows run different ones, the largest of which the stage states.

    Raises:
        ValueError: a place is not that of a recurrent stage, or a number is below 1 or too large.
    """
    left = dict(steps)
    stages = tuple(_resized(stage, f"stages.{n}", left) for n, stage in enumerate(spec.stages))
    if left:
        raise ValueError(f"expected the place of a stage, such as stages.0, got {next(iter(left))}")
    return spec.model_copy(update={"stages": stages})


def _resized(entry: Sublayer | Stage, place: str, left: dict[str, int]) -> Sublayer | Stage:
    if not isinstance(entry, Stage):
        return entry
    inner = tuple(_resized(each, f"{place}.{n}", left) for n, each in enumerate(entry.step))
    changes: dict[str, object] = {"step": inner}
    if place in left:
        number = left.pop(place)
        if not entry.tied:
            raise ValueError(f"{place}: expected a recurrent stage, got a stack, whose layers are fixed")
        if number < 1:
            raise ValueError(f"{place}: expected at least 1 step, got {number}")
        if number > MOST_STEPS:
            raise ValueError(f"{place}: expected at most {MOST_STEPS} steps, got {number}")
        rows = Recur.model_construct(steps=int(number), per="sequence")
        changes["recur"] = rows if isinstance(number, RowSteps) else number
        for n, each in enumerate(inner):
            if not isinstance(each, str) and not runs_at(each.at, number):
                raise ValueError(f"{place}.{n}: {each.at} selects none of {number} steps")
    return entry.model_copy(update=changes)
