"""A bound on steps that do not run alike: costs count each stretch of steps that do as a loop of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from blocks.base.invalid import Unknown
from blocks.base.wiring import WiringConfig
from blocks.ir.numbers import largest, smallest
from composer.language.schema.at import runs_at
from composer.language.schema.levels import stage_options
from composer.language.schema.spec import Model, Stage
from composer.settings.errors import Fault
from composer.settings.tree import Node, fault_at

MOST_LOOPS = 1000


def uneven_steps(model: Model, stages: Sequence[Stage], tree: Node) -> Iterator[Fault]:
    """Find stages whose steps change too often in what they run, or on which tokens."""
    for number, stage in enumerate(stages):
        if (loops := _loops(model, stage)) > MOST_LOOPS:
            expected = f"at most {MOST_LOOPS} steps that differ by at: or route:, nested ones multiplied"
            yield fault_at(tree, ("stages", number), expected, str(loops))


def _loops(model: Model, stage: Stage) -> int:
    """Return the number of loops that costs count for a stage and those nested in it."""
    if stage.recur is None and stage.stack is None:
        raise Unknown
    inner = sum(_loops(model, entry) for entry in stage.step if isinstance(entry, Stage))
    return _stretches(model, stage) * largest(1, inner)


def _stretches(model: Model, stage: Stage) -> int:
    """Return the number of stretches of steps that run alike, at most that of the steps."""
    options = stage_options(model, stage).values()
    if any(isinstance(option, WiringConfig) and option.selects_tokens for option in options):
        return stage.trips
    given = (entry.at for entry in stage.step if not isinstance(entry, str) and entry.at is not None)
    changes = sum(2 if run.step == 1 else 2 * len(run) for run in {runs_at(at, stage.trips) for at in given})
    return smallest(stage.trips, 1 + changes) if changes else 1
