"""Caps: upper limits on costs, checked before training."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from composer.costs.base.budget import Budget
from composer.costs.base.units import amount, count_text
from composer.costs.counting.count import Costs
from composer.costs.counting.plan import Plan, as_plan
from composer.language.schema.caps import Kind
from composer.language.schema.spec import Spec
from composer.measures.registry import MEASURES
from composer.settings.errors import Fault, SpecError


class Excess(NamedTuple):
    """A cap that a spec exceeds: its hard limit, or only its soft limit.

    Attributes:
        heaviest: the largest term of the measure, and its size.
        at: the number of steps it refers to, if training and evaluation differ.
    """

    cap: str
    limit: float
    value: float
    heaviest: tuple[str, float]
    at: str = ""

    def __str__(self) -> str:
        term, size = self.heaviest
        ratio = self.value / self.limit
        far = f"{100 * (ratio - 1):.3g} % over" if ratio < 3 else f"{ratio:.3g} times the cap"
        mitigation = MEASURES[self.cap].mitigation
        tried = f" though {mitigation}" if mitigation else ""
        over = f"{amount(self.cap, self.value)}, {far}{tried}"
        share = f"{100 * size / self.value:.0f} %" if self.value else "0 %"
        over += f" {self.at}" if self.at else ""
        return f"{over}; heaviest: {term} with {amount(self.cap, size)} ({share})"


def excesses(spec: Spec, costs: Costs, kind: Kind = "hard") -> list[Excess]:
    """Return every cap whose hard (or soft) limit the spec exceeds, in the order of declaration."""
    over = []
    for cap, limit in spec.caps.limits(kind).items():
        value = costs.measure(cap)
        if value is not None and value > limit:
            at = MEASURES[cap].at_words if costs.trained_steps else ""
            over.append(Excess(cap, limit, value, MEASURES[cap].heaviest(costs), at))
    return over


def warnings(spec: Spec, costs: Costs) -> list[str]:
    """Return a sentence for every soft limit that the spec exceeds."""
    return [
        f"caps.{each.cap}: the soft limit is {amount(each.cap, each.limit)}, this is {each}"
        for each in excesses(spec, costs, "soft")
    ]


def check_caps(spec: Spec | Plan) -> Costs:
    """Return the costs of a spec under its plan.

    Raises:
        SpecError: it exceeds a cap (the message says by how much, and names the largest term), or has a cap
            that needs a `train` section without one.
    """
    plan = as_plan(spec)
    spec, costs = plan.spec, plan.costs
    faults = list(_faults(plan, excesses(spec, costs)))
    faults += [
        spec.fault(("caps", name), "a `train` section that says the tokens", "none")
        for name, measure in MEASURES.items()
        if measure.training == "needed"
        and getattr(spec.caps, name) is not None
        and measure.value(costs) is None
    ]
    if faults:
        raise SpecError(faults)
    return costs


def _faults(plan: Plan, over: list[Excess]) -> Iterator[Fault]:
    """Turn each excess into a fault that names the tunables that would bring it within the cap."""
    if not over:
        return
    from composer.costs.fitting.fit import SUGGESTING, suggestions

    budget = Budget(SUGGESTING)
    tries = suggestions(plan, [excess.cap for excess in over], budget)
    for excess in over:
        suggested = ", ".join(map(str, tries.get(excess.cap, ())))
        expected = f"at most {amount(excess.cap, excess.limit)}"
        hint = f"try: {suggested}" if suggested else "no single size brings it below"
        if budget.spent:
            stopped = f"stopped after {count_text(budget.total)} operations costed"
            hint = (
                f"{hint}; {stopped}" if suggested else f"no single size found that brings it below, {stopped}"
            )
        yield plan.spec.fault(("caps", excess.cap), expected, str(excess), hint)
