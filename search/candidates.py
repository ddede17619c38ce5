"""From an answer of the sampler to a candidate: resolved, costed, and held against the caps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from composer import cost
from composer.costs.caps import excesses
from composer.costs.count import Costs
from composer.costs.fast import measures
from composer.spec.choice import Knob, Value
from composer.spec.identity import run_hash
from composer.spec.models import Spec
from composer.spec.space import InvalidPoint, Space

INVALID = "invalid"
"""The constraint that an invalid point violates; the others are named after caps."""

Verdict: TypeAlias = Literal["feasible", "over", "invalid"]


@dataclass(frozen=True)
class Candidate:
    """One proposal, before any training.

    Attributes:
        verdict: feasible, over a cap, or no valid spec at all.
        params: the answers.
        why: what is wrong with it, in words.
        constraints: for the sampler, above 0 where violated: for a cap the share by which it is exceeded.
        spec: None where it is invalid.
        costs: by the names of the cost metrics.
    """

    verdict: Verdict
    params: dict[str, Value]
    why: str = ""
    constraints: dict[str, float] = field(default_factory=dict)
    spec: Spec | None = None
    costs: dict[str, float] = field(default_factory=dict)

    @property
    def identity(self) -> str:
        """The run hash of its spec."""
        assert self.spec is not None
        return run_hash(self.spec)


def candidate(space: Space, ask: Callable[[Knob], Value]) -> Candidate:
    """Resolve the point that `ask` chooses and cost it."""
    try:
        point = space.point(ask)
    except InvalidPoint as error:
        return Candidate("invalid", error.params, str(error.faults[0]), {INVALID: 1.0})
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
    """Return by how much each cap is exceeded, as a share of it; 0 or below where it holds."""
    limits = spec.caps.limits()
    values = {cap: costs.measure(cap) for cap in limits}
    return {cap: value / limits[cap] - 1 for cap, value in values.items() if value is not None}
