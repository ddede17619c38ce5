"""The setting of a benchmark, and how its contestants are compared."""

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
    """The settings that all parts share.

    Attributes:
        dtype: of the kernels' inputs; bf16 on a GPU.
        full: whether to use the sizes that goals are set for, else small ones as a smoke test.
        rounds: number of rounds, in each of which every contestant runs once.
        clock: the clock for kernels; whole steps use wall-clock time.
        rates: measured in this run.
        compiles: whether torch.compile works, so that compiled contestants take part.
        warmup: number of runs before the rounds.
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
        """The target that kernels are chosen for."""
        return Target(self.device.type, str(self.dtype).removeprefix("torch."), here=True)


@dataclass(frozen=True)
class Case:
    """Contestants at one task.

    Attributes:
        name: the sizes, in words.
        contestants: each builds the function that is timed; building is not timed.
        ours: the names of this project's contestants.
        base: the name of the contestant that all are compared to, if any.
        moved: the fewest bytes that must be moved, 0 if no floor is known.
        flops: the fewest FLOPs of products.
        floors: bytes of contestants that have their own floor.
        goals: the goals, as functions of a row of ours; checked only at full size.
        skipped: contestants that cannot run here, with the reason.
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


def here(rounds: int, full: bool | None = None, note: Callable[[str], None] = lambda text: None) -> Setting:
    """Return the setting for this machine: the GPU if there is one, at full size by default."""
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    dtype = torch.bfloat16 if cuda else torch.float32
    clock = clock_of(device)
    full = cuda if full is None else full
    measured = rates(device, dtype, clock, small=not full)
    return Setting(device, dtype, full, rounds, clock, measured, compiler_works(device, note))


def compiler_works(device: torch.device, note: Callable[[str], None] = lambda text: None) -> bool:
    """Return whether torch.compile works on a device, by compiling one line; print the reason if not."""
    why = attempt(lambda: torch.compile(torch.sin)(torch.zeros(2, device=device)))
    if why:
        note(f"{NO_COMPILER}: {why}")
    return not why


def measured(case: Case, setting: Setting, whole: bool = False) -> list[Row]:
    """Time a case; `whole` steps with wall-clock time, kernels with the setting's clock.

    A contestant that fails, for lack of memory or of a kernel, has a row with the reason. One of ours that
    fails has missed its goals.
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
