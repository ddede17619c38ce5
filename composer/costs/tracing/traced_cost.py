"""Costs of many candidates: counted once per structure, then evaluated again with other numbers.

The first tree of a structure is loaded and counted like any spec. For the second, validation and counting run
on traced numbers and are compiled to a function, which is used for each later tree that passes its guards;
other trees are loaded and traced again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from blocks.ir.traced import Number, Trace
from composer.costs.counting.count import Costs
from composer.costs.counting.plan import count
from composer.costs.tracing.codegen import Compiled, compiled
from composer.language.load import resolve_spec
from composer.language.schema.spec import Spec
from composer.language.schema.template import Structure, joined, split, traced
from composer.language.validation.semantic import semantic
from composer.measures.registry import MEASURES
from composer.settings.tree import Place, planted

_MOST = 64
_PLACE = Place("<tree>")


def measures(costs: Costs, names: Iterable[str] = MEASURES) -> dict[str, Number]:
    """Return costs by the names used in caps and objectives, without those that do not apply."""
    values = {name: costs.measure(name) for name in names}
    return {name: value for name, value in values.items() if value is not None}


class Coster:
    """Counts costs of resolved spec trees, without `let` and `extends`.

    `names` are the measures to count; memory is most of the work. `counted` counts one spec, by default
    `count`.
    """

    def __init__(self, names: Iterable[str] = MEASURES, counted: Callable[[Spec], Costs] = count) -> None:
        self._names, self._counted = tuple(names), counted
        # functions by structure, the latest first; None if tracing was given up
        self._known: dict[Structure, list[Compiled] | None] = {}

    def __call__(self, tree: Mapping[str, Any]) -> dict[str, Number]:
        """Return the measures of a tree, identical to those of its spec.

        Raises:
            SpecError: the tree is no valid spec.
        """
        structure, numbers = split(tree)
        for run in self._known.get(structure) or ():
            try:
                values = run(numbers)
            except ArithmeticError:
                continue
            if values is not None:
                return values
        spec = resolve_spec(planted(tree, _PLACE))
        costs = self._counted(spec)
        values = measures(costs, self._names)
        # a choice of what to recompute holds for its own numbers, and takes longer to trace than to make
        if self._counted is not count or not _chooses(spec, costs):
            self._learn(spec, tree, structure, numbers, values)
        return values

    def _measured(self, spec: Spec) -> dict[str, Number]:
        return measures(self._counted(spec), self._names)

    def _learn(
        self,
        spec: Spec,
        tree: Mapping[str, Any],
        structure: Structure,
        numbers: list[Number],
        values: dict[str, Number],
    ) -> None:
        """Trace a function for the tree's structure, unless this is the first tree with it."""
        if structure not in self._known:
            self._known[structure] = []
            return
        known = self._known[structure]
        if known is None:
            return
        run = _function(self._measured, spec, tree, numbers)
        if run is None or run(numbers) != values or len(known) == _MOST:
            self._known[structure] = None
        else:
            known.insert(0, run)


def _chooses(spec: Spec, costs: Costs) -> bool:
    """Return whether a cap on memory led to a choice of recomputation."""
    limits = (spec.caps.limit("train_memory", kind) for kind in ("soft", "hard"))
    return bool(costs.recomputed) or any(limit and costs.train_memory.total > limit for limit in limits)


def _function(
    measured: Callable[[Spec], dict[str, Number]], spec: Spec, tree: Mapping[str, Any], numbers: list[Number]
) -> Compiled | None:
    """Trace the costs of `spec` and return them as a function of the numbers in its tree.

    None where a check or a formula cannot be traced.
    """
    trace = Trace()
    leaves = [trace.leaf(f"n{position}", number) for position, number in enumerate(numbers)]
    plain = joined(tree, iter(leaves))
    try:
        copy = traced(spec, plain)
        assert not semantic(planted(plain, _PLACE), copy)
        return compiled(trace, leaves, measured(copy))
    except Exception:
        # third-party blocks may fail in any way on traced numbers
        return None
