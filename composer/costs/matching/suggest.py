"""Changes of a target after which all arms of its comparison can be matched in a sensible shape."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil

from composer.costs.counting.plan import count
from composer.costs.fitting.fit import Move, made
from composer.costs.fitting.tunables import Tunable, Tunables
from composer.costs.matching.arms import Arm, derived
from composer.costs.matching.match import match
from composer.costs.tracing.traced_cost import measures
from composer.language.schema.shape_bounds import ShapeBounds
from composer.language.schema.spec import Spec
from composer.measures.registry import MAIN
from composer.settings.errors import SpecError

# experts are tried up to this many times the estimate
_FARTHEST = 4.0
_GROWTH = 1.2
_HALVINGS = 2
# of active experts or steps
_SHARES = (7 / 8, 3 / 4, 5 / 8, 1 / 2, 3 / 8, 1 / 4, 1 / 8)


@dataclass(frozen=True)
class Suggestion:
    """One change of the target after which all its arms except dense ones can be matched.

    Attributes:
        moves: the changed sizes.
        before: the main measures of the target as it is.
        after: the same with the change.
    """

    moves: tuple[Move, ...]
    before: Mapping[str, float]
    after: Mapping[str, float]


def suggestions(
    spec: Spec, arms: Sequence[Arm], on: Sequence[str] = MAIN, bounds: ShapeBounds | None = None
) -> list[Suggestion]:
    """Return single changes of a target: more experts, fewer active experts or fewer steps.

    Args:
        spec: the target.
        arms: its arms; at least one that is not dense could not be matched.
        on: the measures.
        bounds: of shape.
    """
    failing = [arm.name for arm in arms if not (arm.match.holds or arm.optional)]
    tried = _Target(spec, failing, on, bounds)
    changes = (tried.more_experts(), tried.fewer("active"), tried.fewer("recur"))
    return [tried.suggestion(values) for values in changes if values]


def experts_needed(spec: Spec) -> int:
    """Return about how many experts a recurrent target needs if its untied arm is to be a mixture; else 0.

    At equal width, FLOPs and parameters a layer of an untied arm has one part in `steps` of the experts, and
    a mixture has at least four times as many as are active, in all heads where each head has its own.
    """
    blocks = [block.canonical(spec.model.width) for block in spec.blocks.values()]
    active = max((each["active"] * each.get("heads", 1) for each in blocks if "active" in each), default=0)
    return 4 * active * max(stage.trips for stage in spec.stages if stage.recurs)


class _Target:
    """A target being tried with other sizes."""

    def __init__(
        self, spec: Spec, failing: Sequence[str], on: Sequence[str], bounds: ShapeBounds | None
    ) -> None:
        self._spec, self._failing, self._on, self._bounds = spec, failing, on, bounds
        self._tunables = Tunables(spec)
        self._apart = [
            tunable for tunable in Tunables(spec, apart=True).all if tunable.part in ("block", "steps")
        ]

    def _of(self, field: str) -> list[Tunable]:
        return [tunable for tunable in self._apart if tunable.path.rpartition(".")[2] == field]

    def suggestion(self, values: dict[str, int]) -> Suggestion:
        """Return the suggestion for some values, with their costs."""
        moves = (
            Move(tunable.label, tunable.value, values[tunable.path], tunable.path)
            for tunable in self._apart
            if tunable.path in values
        )
        before, after = (measures(count(self._changed(each)), MAIN) for each in ({}, values))
        return Suggestion(tuple(moves), before, after)

    def more_experts(self) -> dict[str, int]:
        """Return the fewest sufficient experts, scaled alike in all blocks; {} if there are none."""
        tunables = self._of("experts")
        if not tunables:
            return {}
        least = max(tunable.value for tunable in tunables)
        most = _FARTHEST * max(experts_needed(self._spec), least)

        def values(first: int) -> dict[str, int]:
            return {
                tunable.path: _at_least(tunable, ceil(first * tunable.value / least)) for tunable in tunables
            }

        failed, trial = least, max(least + 1, 3 * experts_needed(self._spec) // 4)
        while not self._fits(values(trial)):
            failed, trial = trial, ceil(trial * _GROWTH)
            if trial > most:
                return {}
        for _ in range(_HALVINGS):
            middle = (failed + trial) // 2
            if middle in (failed, trial):
                break
            failed, trial = (failed, middle) if self._fits(values(middle)) else (middle, trial)
        return values(trial)

    def fewer(self, field: str) -> dict[str, int]:
        """Return the most active experts, or steps of the longest stage, that suffice; {} if none do."""
        tunables = self._of(field)
        if not tunables:
            return {}
        tunable = max(tunables, key=lambda each: each.value)
        least = 2 if field == "recur" else 1
        trials = dict.fromkeys(round(tunable.value * share) for share in _SHARES)
        fitting = ({tunable.path: value} for value in trials if least <= value < tunable.value)
        return next((values for values in fitting if self._fits(values)), {})

    def _changed(self, values: dict[str, int]) -> Spec:
        return made({key: value for key, value in self._tunables.tree(values).items() if key != "caps"})

    def _fits(self, values: dict[str, int]) -> bool:
        """Whether all arms except dense ones can be matched; arms that failed before are tried first."""
        try:
            spec = self._changed(values)
            ready = {name: arm for name, _, arm in derived(spec)}
        except SpecError:
            return False
        return all(
            match(ready[name], spec, self._on, bounds=self._bounds, give_up=(), name=name).holds
            for name in self._order(list(ready))
        )

    def _order(self, names: Sequence[str]) -> Iterator[str]:
        wanted = [name for name in names if not name.endswith("-dense")]
        yield from sorted(wanted, key=lambda name: name not in self._failing)


def _at_least(tunable: Tunable, value: int) -> int:
    """Return the least number from `value` on that the tunable may be."""
    return value if tunable.grid is None else tunable.grid.nth(tunable.grid.rank(value - 1) + 1)
