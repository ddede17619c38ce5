"""Where a benchmark runs, and how its contestants are held against each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from blocks.ir.kernel import Target
from composer.bench.measuring.clocks import Clock, Run, clock_of, wall
from composer.bench.measuring.machine import Rates, rates
from composer.bench.measuring.pairs import attempt, let_go, ratio, side_by_side
from composer.bench.measuring.records import Goal, Row

NO_COMPILER = "torch.compile does not work here"


@dataclass(frozen=True)
class Setting:
    """What all parts share.

    Attributes:
        dtype: of what kernels are given; bf16 on a GPU.
        full: whether sizes are those that goals are set for; else small ones, in which all is tried.
        rounds: in each of which everyone runs once.
        clock: for kernels; whole steps go by the wall's.
        rates: measured in this run.
        compiles: whether torch.compile works here, and compiled contestants take part.
        warmup: runs before the rounds.
    """

    device: torch.device
    dtype: torch.dtype
    full: bool
    rounds: int
    clock: Clock
    rates: Rates
    compiles: bool
    warmup: int = 2

    @property
    def target(self) -> Target:
        """What kernels are chosen for."""
        return Target(self.device.type, str(self.dtype).removeprefix("torch."), here=True)


@dataclass(frozen=True)
class Case:
    """Some contestants at one task.

    Attributes:
        name: the sizes, in words.
        contestants: each makes what is timed, with all it needs; making is not timed.
        ours: the names of those of this project.
        base: the name of the one that all are compared to, if any.
        moved: bytes that have to move at least, 0 where no floor is known.
        flops: FLOPs of products that have to be made at least.
        floors: bytes of contestants that have a floor of their own.
        goals: what is meant to be reached, from the row of one of ours; held to at full size alone.
        skipped: contestants that cannot run here, and why.
    """

    name: str
    task: str
    contestants: Mapping[str, Callable[[], Run]]
    ours: Sequence[str] = ()
    base: str = ""
    moved: float = 0.0
    flops: float = 0.0
    floors: Mapping[str, float] = field(default_factory=dict)
    goals: Callable[[Row], Sequence[Goal]] = lambda row: ()
    skipped: Mapping[str, str] = field(default_factory=dict)


def here(rounds: int, full: bool | None = None, told: Callable[[str], None] = lambda text: None) -> Setting:
    """Look at this machine: the GPU where there is one, at full size unless told otherwise."""
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    dtype = torch.bfloat16 if cuda else torch.float32
    clock = clock_of(device)
    full = cuda if full is None else full
    found = rates(device, dtype, clock, small=not full)
    return Setting(device, dtype, full, rounds, clock, found, compiler_works(device, told))


def compiler_works(device: torch.device, told: Callable[[str], None] = lambda text: None) -> bool:
    """Return whether torch.compile works on a device, by compiling one line; tell why not."""
    why = attempt(lambda: torch.compile(torch.sin)(torch.zeros(2, device=device)))
    if why:
        told(f"{NO_COMPILER}: {why}")
    return not why


def measured(case: Case, setting: Setting, whole: bool = False) -> list[Row]:
    """Time a case; `whole` steps by the wall's clock, kernels by the setting's.

    Who fails, of memory or because a library has no such kernel, has a row that says so. One of ours that
    does has missed its goals.
    """
    let_go()
    runs: dict[str, Run] = {}
    failed = dict(case.skipped)
    for name, make in case.contestants.items():
        if why := attempt(lambda name=name, make=make: runs.__setitem__(name, make())):  # type: ignore[misc]
            failed[name] = why
    clock = wall if whole else setting.clock
    timings, late = side_by_side(runs, setting.rounds, setting.warmup, clock)
    failed |= late
    rows = []
    for name in (*case.contestants, *case.skipped):
        ours = name in case.ours
        moved = case.floors.get(name, case.moved)
        floor = setting.rates.floor(moved, case.flops) or None
        if name in failed:
            row = Row(case.name, case.task, name, ours, floor=floor, moved=moved, note=failed[name])
            missed = (Goal("runs at all", 1.0, 0.0),) if ours and setting.full else ()
            rows.append(replace(row, goals=missed))
            continue
        timing, base = timings[name], timings.get(case.base)
        low, high = timing.quartiles
        against = ratio(timing, base) if base else None
        row = Row(
            case.name,
            case.task,
            name,
            ours,
            timing.median,
            low,
            high,
            floor,
            moved or None,
            (against.middle, against.low, against.high) if against else None,
        )
        rows.append(replace(row, goals=tuple(case.goals(row))) if ours and setting.full else row)
    return rows
