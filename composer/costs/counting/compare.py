"""Costs of several specs side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from composer.costs.base.units import amount
from composer.costs.counting.count import Costs
from composer.measures.registry import MEASURES


@dataclass(frozen=True)
class Change:
    """One cost of two specs; None where it does not apply to a spec.

    Attributes:
        term: whether it is a term of the measure above it.
    """

    name: str
    before: float | None
    after: float | None
    term: bool = False

    @property
    def percent(self) -> float | None:
        """The change as a percentage of the earlier value; None where the earlier value is missing or 0."""
        if self.before is None or self.after is None:
            return None
        if self.before == self.after:
            return 0.0
        return 100 * (self.after / self.before - 1) if self.before else None


def measures(a: Costs, b: Costs) -> list[Change]:
    """Return every measure that applies to at least one spec, with FLOPs split by pass and memory by term."""
    changes = []
    for name, measure in MEASURES.items():
        before, after = a.measure(name), b.measure(name)
        if before is None and after is None:
            continue
        changes.append(Change(name, before, after))
        if measure.details:
            here, there = measure.details(a), measure.details(b)
            terms = dict.fromkeys((*here, *there))
            changes += [Change(term, here.get(term), there.get(term), term=True) for term in terms]
    return changes


def by_block(a: Costs, b: Costs, names: Mapping[str, str]) -> dict[str, list[Change]]:
    """Return the shares of blocks that both have; `names` maps those of `a` to those of `b`."""
    pairs = {name: names.get(name, name) for name in a.by_block}
    return {
        one: [
            Change(key, getattr(a.by_block[one], key), getattr(b.by_block[two], key))
            for key in ("params", "active_params", "forward", "backward")
        ]
        for one, two in pairs.items()
        if two in b.by_block and (one in names or one not in names.values())
    }


def cost_rows(costs: Sequence[Costs]) -> list[list[str]]:
    """Return labels, of the measures that some spec has above 0, then the values of each spec."""
    names = [name for name in MEASURES if any(each.measure(name) for each in costs)]
    rows = [[MEASURES[name].label or name for name in names]]
    for each in costs:
        values = {name: each.measure(name) for name in names}
        rows.append(["" if value is None else amount(name, value) for name, value in values.items()])
    return rows
