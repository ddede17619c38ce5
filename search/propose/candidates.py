"""From a point of the sampler to a candidate: resolved, costed, and compared with the caps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, Literal, TypeAlias

from composer import cost
from composer.costs.counting.count import Costs
from composer.costs.fitting.caps import excesses
from composer.costs.tracing.traced_cost import Coster, measures
from composer.language.parsing.choice import SearchParameter, Value
from composer.language.schema.identity import run_hash
from composer.language.schema.spec import Spec
from composer.language.space import InvalidPoint, Space
from composer.settings.errors import Fault, SpecError

INVALID = "invalid"
"""The constraint that an invalid point violates; other constraints are named after caps."""

Verdict: TypeAlias = Literal["feasible", "over", "invalid"]

_REMEMBERED = 20_000
_LATEST = 4
"""Number of candidates that are kept with their specs."""

_Key: TypeAlias = tuple[tuple[str, Value], ...]


@dataclass(frozen=True)
class Candidate:
    """One proposal, before any training.

    Attributes:
        verdict: feasible, over a cap, or no valid spec at all.
        params: the values of its parameters.
        why: what is wrong with it, as text.
        constraints: for the sampler, positive if violated: for a cap the share by which it is exceeded.
        spec: None if invalid.
        costs: by the names of the cost metrics.
        faults: the faults of an invalid one.
    """

    verdict: Verdict
    params: dict[str, Value]
    why: str = ""
    constraints: dict[str, float] = field(default_factory=dict)
    spec: Spec | None = None
    costs: dict[str, float] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()

    @cached_property
    def identity(self) -> str:
        """The run hash of its spec."""
        assert self.spec is not None
        return run_hash(self.spec)


def candidate(space: Space, ask: Callable[[SearchParameter], Value]) -> Candidate:
    """Resolve and cost the point that `ask` chooses."""
    try:
        point = space.point(ask)
    except InvalidPoint as error:
        why = str(error.faults[0])
        return Candidate("invalid", error.params, why, {INVALID: 1.0}, faults=error.faults)
    costs = cost(point.spec)
    over = excesses(point.spec, costs)
    return Candidate(
        "over" if over else "feasible",
        point.params,
        "; ".join(f"{excess.cap} {excess}" for excess in over),
        constraints(point.spec, costs),
        point.spec,
        measures(costs),
    )


def constraints(spec: Spec, costs: Costs) -> dict[str, float]:
    """Return by how much each cap is exceeded, as a share of it; at most 0 if it holds."""
    limits = spec.caps.limits()
    values = {cap: costs.measure(cap) for cap in limits}
    return {cap: value / limits[cap] - 1 for cap, value in values.items() if value is not None}


@dataclass(frozen=True)
class Judged:
    """The facts about a point that a sampler needs.

    Attributes:
        params: the values of the parameters in the branches taken.
        excess: the excess over the most exceeded cap, as a share of it; 0 if feasible, infinite if
            invalid.
        identity: the run hash of the spec; empty if it is not feasible.
    """

    params: dict[str, Value]
    excess: float
    identity: str = ""

    @property
    def feasible(self) -> bool:
        """Whether the point may be trained."""
        return self.excess == 0


class Judge:
    """Decides quickly which of many points of a space are feasible, from their costs alone.

    A spec is built only for a point within the caps; results are cached.
    """

    def __init__(self, space: Space) -> None:
        self.space = space
        self._coster = Coster()
        self._limits: dict[str, float] | None = None
        self._known: dict[_Key, tuple[float, str]] = {}
        self._latest: dict[_Key, Candidate] = {}

    def __call__(self, ask: Callable[[SearchParameter], Value]) -> Judged:
        """Judge the point that `ask` chooses."""
        try:
            params, tree = self.space.tree(ask)
        except InvalidPoint as error:
            return Judged(error.params, math.inf)
        key = tuple(params.items())
        if key not in self._known:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[key] = self._judged(key, params, tree)
        return Judged(params, *self._known[key])

    def candidate(self, ask: Callable[[SearchParameter], Value]) -> Candidate:
        """Return the candidate of the point that `ask` chooses, without costing one of the latest again."""
        try:
            params, _ = self.space.tree(ask)
        except InvalidPoint as error:
            params = error.params
        latest = self._latest.get(tuple(params.items()))
        return latest or candidate(self.space, partial(_answer, params))

    def _judged(self, key: _Key, params: dict[str, Value], tree: dict[str, Any]) -> tuple[float, str]:
        try:
            costs = self._coster(tree)
        except SpecError:
            return math.inf, ""
        if self._limits is not None:
            over = [costs[cap] / limit - 1 for cap, limit in self._limits.items() if cap in costs]
            if max(over, default=0.0) > 0:
                return max(over), ""
        made = self._candidate(params, costs)
        if made.spec is None:
            return math.inf, ""
        self._latest[key] = made
        if len(self._latest) > _LATEST:
            del self._latest[next(iter(self._latest))]
        self._limits = made.spec.caps.limits()
        over = [share for share in made.constraints.values() if share > 0]
        return (max(over), "") if over else (0.0, made.identity)

    def _candidate(self, params: dict[str, Value], costs: dict[str, float]) -> Candidate:
        """Return the candidate of a point with these costs, within the limits if these are known."""
        ask = partial(_answer, params)
        if self._limits is None:
            return candidate(self.space, ask)
        try:
            point = self.space.point(ask)
        except InvalidPoint as error:
            return Candidate("invalid", error.params, faults=error.faults)
        shares = {cap: costs[cap] / limit - 1 for cap, limit in self._limits.items() if cap in costs}
        return Candidate("feasible", point.params, "", shares, point.spec, costs)


def _answer(params: dict[str, Value], parameter: SearchParameter) -> Value:
    return params[parameter.name]
