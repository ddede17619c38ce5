"""Matched baselines: sizes at which one architecture costs as much as another, in a sensible shape."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from operator import attrgetter
from typing import Any

from pydantic import ValidationError

from composer.costs.fitting.fit import Measures, Move, made
from composer.costs.fitting.tunables import Tree, Tunable, Tunables, find
from composer.costs.matching.choices import axes, dimensions
from composer.costs.matching.goal import NOWHERE, Aim, Costs, Goal, Solution
from composer.costs.matching.shape import SHAPING, WIDTH, Limits, Sizes, distance
from composer.costs.matching.solve import Search
from composer.costs.tracing.traced_cost import Coster
from composer.language.description.show import document
from composer.language.schema.shape_bounds import ShapeBounds
from composer.language.schema.spec import Spec
from composer.measures.registry import MAIN, MATCHABLE, MEASURES
from composer.settings.errors import Fault, SpecError, close, listed

_SHORT = {measure.short: name for name, measure in MEASURES.items() if measure.short}


@dataclass(frozen=True)
class Residual:
    """One measure of the matched spec and of its target."""

    measure: str
    value: float
    target: float
    tolerance: float

    @property
    def percent(self) -> float:
        """The deviation of the value from its target, in percent of the target."""
        if self.value == self.target:
            return 0.0
        return 100 * (self.value / self.target - 1) if self.target else inf

    @property
    def holds(self) -> bool:
        """Whether it is within the tolerance."""
        return abs(self.percent) <= self.tolerance


@dataclass(frozen=True)
class Match:
    """A spec matched to the costs of its target, as closely as the bounds of shape allow.

    Attributes:
        moves: every size that differs from the base's.
        distance: how far the shape is from the base's; see `composer.costs.matching.shape.distance`.
        widened: a text for each bound that the base itself exceeds; there its own value is the bound.
        reached: the bounds that the shape has reached.
    """

    spec: Spec
    moves: tuple[Move, ...]
    residuals: tuple[Residual, ...]
    distance: float
    widened: tuple[str, ...] = ()
    reached: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether every residual is within its tolerance."""
        return all(residual.holds for residual in self.residuals)


def match(
    base: Spec,
    target: Spec,
    on: Sequence[str] = MAIN,
    free: Sequence[str] | None = None,
    tolerance: Mapping[str, float] | None = None,
    *,
    bounds: ShapeBounds | None = None,
    give_up: Sequence[Collection[str]] | None = None,
    name: str | None = None,
    measures: Measures | None = None,
) -> Match:
    """Solve the free tunables of `base` for the costs of `target`; deterministic.

    The result keeps the architecture of `base` and stays within the bounds of shape; vocabulary, context and
    training are those of the target, so that memory is that of the same micro-batch. Caps are left out on
    both sides: nothing is recomputed. Without `free` the width and the sizes of blocks may change: heads,
    head sizes, active experts, experts and hidden sizes. The result is the nearest shape that meets all
    measures. If there is none, it is the one that misses a single measure by the least, and failing that the
    one that misses all of them by the least.

    Args:
        on: names of the measures to match, from `MATCHABLE`.
        free: labels or paths of the tunables that may change. kv_heads follow heads.
        tolerance: the allowed deviation of a measure in percent, where it is not the default.
        bounds: bounds of shape; the default ones if None.
        give_up: sets of measures to drop, tried in this order if not all measures can be met. By default each
            measure alone, which is still brought as near as the others allow.
        name: the name of the result; `BASE-at-TARGET` by default.
        measures: computes the costs of a tree; a `Coster` by default.

    Raises:
        SpecError: an unknown measure or tunable, a target without `train` where memory or training FLOPs are
            compared, or a base that makes no valid spec with the target's training.
    """
    on = list(dict.fromkeys(measure_named(each) for each in on))
    wanted = {**MATCHABLE, **{measure_named(each): far for each, far in (tolerance or {}).items()}}
    if target.train is None and (trained := [name for name in on if MEASURES[name].training != "unused"]):
        verb = "is" if len(trained) == 1 else "are"
        expected = f"a `train` section, which {listed(trained, 'and')} {verb} compared by"
        raise SpecError([target.fault_at(("train",), expected, "none")])
    measures = measures or Coster(on)
    costs = measures(_bare(document(target)))
    aims = {measure: (costs[measure], wanted[measure]) for measure in on}
    return match_to(base, target, aims, free, bounds=bounds, give_up=give_up, name=name, measures=measures)


def match_to(
    base: Spec,
    like: Spec,
    aims: Mapping[str, tuple[float, float]],
    free: Sequence[str] | None = None,
    *,
    bounds: ShapeBounds | None = None,
    give_up: Sequence[Collection[str]] | None = None,
    name: str | None = None,
    measures: Measures | None = None,
) -> Match:
    """Solve the free tunables of `base` for costs given as numbers, as `match` does for those of a spec.

    Args:
        like: the spec that provides vocabulary, context and training. If it has no `train` section, `aims`
            must hold neither memory nor training FLOPs.
        aims: the target value of each measure, and its tolerance in percent.
        free: labels or paths of the tunables that may change.
        bounds: bounds of shape; the default ones if None.
        give_up: sets of measures to drop, tried in this order if not all measures can be met. By default each
            measure alone, which is still brought as near as the others allow.
        name: the name of the result; `BASE-at-LIKE` by default.
        measures: computes the costs of a tree; a `Coster` by default.

    Raises:
        SpecError: an unknown tunable, or a base that makes no valid spec with the training of `like`.
    """
    measures = measures or Coster(aims)
    matching = _Matching(base, like, list(aims), measures, bounds or ShapeBounds(), name)
    goals = _fallbacks(aims) if give_up is None else [[_without(aims, given)] for given in give_up]
    solution = matching.solved(free, [[_without(aims, ())], *goals])
    tree = matching.tree(solution.values)
    costs = measures(tree)
    residuals = (Residual(measure, costs[measure], *aim) for measure, aim in aims.items())
    limits = matching.limits
    assert limits.allow(solution.values)
    moves = tuple(matching.moves(solution.values))
    far = distance(limits.base, solution.values)
    reached = tuple(limits.reached(solution.values))
    return Match(made(tree), moves, tuple(residuals), far, tuple(limits.widened), reached)


def measure_named(name: str) -> str:
    """Return the full name of a measure.

    Raises:
        SpecError: there is none of that name.
    """
    full = _SHORT.get(name, name)
    if full not in MATCHABLE:
        hint = close(name, MATCHABLE)
        raise SpecError(
            [Fault("measures", 0, 0, "", f"some of {listed(MATCHABLE, 'and')}", repr(name), hint)]
        )
    return full


def _bare(tree: Tree) -> Tree:
    """Return a tree without its caps, so that no recomputation changes its costs."""
    return {name: value for name, value in tree.items() if name != "caps"}


class _Matching:
    """A base being matched to target costs, trained like another spec."""

    def __init__(
        self,
        base: Spec,
        like: Spec,
        names: Sequence[str],
        measures: Measures,
        bounds: ShapeBounds,
        name: str | None,
    ) -> None:
        self.limits = Limits(base, bounds)
        self._base, self._names, self._measures = base, names, measures
        self._tunables, self._apart = Tunables(base), Tunables(base, apart=True)
        given: dict[str, Any] = document(like)
        tree = _bare(_copied(self._tunables.tree(self._apart.unset)))
        tree["model"] |= {key: given["model"][key] for key in ("vocab", "context")}
        tree["name"] = name or f"{base.name[:48]}-at-{like.name[:48]}"
        tree["train"] = given.get("train")
        self._tree = {key: value for key, value in tree.items() if value is not None}
        self._slots = {tunable: _slot(self._tree, tunable) for tunable in self.limits.base}
        self._numbers = {
            name: [path.rpartition(".")[2] for path in self.limits.base if path.startswith(f"blocks.{name}.")]
            for name in self._tree["blocks"]
        }
        self._moved: dict[str, int] = {}
        self._known: dict[tuple[tuple[str, int], ...], Costs | None] = {}
        self._sound: dict[tuple[str, int, tuple[Any, ...]], bool] = {}
        # faults of the base are raised before anything is solved
        measures(self._tree)

    def tree(self, values: Sizes) -> Tree:
        """Return the base with these sizes, trained like `like`."""
        tree: Tree = _copied(self._set(values))
        for path, value in self._apart.unset.items():
            block, _, field = path.rpartition(".")
            # a default that still gives the same value is left out
            if field == "kv_heads" and values.get(path, value) == values.get(
                f"{block}.heads", self.limits.base[f"{block}.heads"]
            ):
                holder, key = _slot(tree, path)
                holder[key] = None
        return tree

    def _set(self, values: Sizes) -> Tree:
        for path in self._moved:
            if path not in values:
                holder, key = self._slots[path]
                holder[key] = self.limits.base[path]
        for path, value in values.items():
            holder, key = self._slots[path]
            holder[key] = value
        self._moved = dict(values)
        return self._tree

    def costs(self, values: Sizes) -> Costs | None:
        """Return the targeted measures; None if the sizes give no valid spec."""
        key = tuple(sorted(values.items()))
        if key not in self._known:
            self._known[key] = self._counted(self._set(values))
        return self._known[key]

    def _counted(self, tree: Tree) -> Costs | None:
        # most invalid sizes are invalid within one block, which is cheaper to check
        if not all(
            self._allows(name, tree["model"]["width"], block) for name, block in tree["blocks"].items()
        ):
            return None
        try:
            costs = self._measures(tree)
        except SpecError:
            return None
        return [costs[name] for name in self._names]

    def _allows(self, name: str, width: int, block: Tree) -> bool:
        """Whether a block is valid with these fields at this width, regardless of the rest of the spec."""
        key = name, width, tuple(block[field] for field in self._numbers[name])
        if key not in self._sound:
            try:
                config = type(self._base.blocks[name]).model_validate(block)
                self._sound[key] = not any(config.problems(width))
            except ValidationError:
                self._sound[key] = False
        return self._sound[key]

    def moves(self, values: Sizes) -> Iterator[Move]:
        """Yield every size that differs from the base's; kv_heads only where they differ from heads."""
        now = {**self.limits.base, **values}
        for tunable in self._apart.all:
            if now.get(tunable.path, tunable.value) == tunable.value:
                continue
            block, _, field = tunable.path.rpartition(".")
            heads = f"{block}.heads"
            if field == "kv_heads" and (tunable.value, now[tunable.path]) == (
                self.limits.base[heads],
                now[heads],
            ):
                continue
            yield Move(tunable.label, tunable.value, now[tunable.path], tunable.path)

    def free(self, names: Sequence[str] | None) -> list[Tunable]:
        """Return the tunables that may move, each once."""
        if names is None:
            return [tunable for tunable in self._apart.all if _sized(tunable)]
        # names of `let` move what they set together; training is taken over
        known = dict.fromkeys(
            tunable for tunable in (*self._tunables.all, *self._apart.all) if tunable.part != "train"
        )
        return list(dict.fromkeys(find(list(known), name, self._base.name) for name in names))

    def effects(self, tunable: Tunable, value: int) -> Sizes:
        """Return the sizes, by path, that another value of a tunable sets; several for a name in `let`."""
        if not tunable.path.startswith("let."):
            return {tunable.path: value}
        try:
            tree = self._tunables.tree({tunable.path: value})
        except SpecError:
            return {}
        effects = {}
        for path, base in self.limits.base.items():
            holder, key = _slot(tree, path)
            if isinstance(now := holder[key], int) and now != base:
                effects[path] = now
        return effects

    def solved(self, names: Sequence[str] | None, goals: Sequence[Sequence[Goal]]) -> Solution:
        """Return the nearest sizes that meet the first goal, or else the best for a later goal."""
        searches = self._searches(self.free(names))
        best = Solution(NOWHERE, {})
        for alike in goals:
            for search in searches[: None if len(alike) == 1 else 1]:
                best = min((search.nearest(goal) for goal in alike), key=attrgetter("score"), default=best)
                if best.score.excess == 0:
                    return best
        return best

    def _searches(self, free: Sequence[Tunable]) -> list[Search]:
        """Return the searches to try in order; later ones use finer hidden sizes and vary heads per block."""
        together = dimensions(free, self.limits, self.effects)
        apart = dimensions(free, self.limits, self.effects, apart=True)
        plain, fine = axes(free, self.limits), axes(free, self.limits, fine=True)
        ways = [(together, plain)]
        if fine != plain:
            ways.append((together, fine))
        if len(apart) > len(together):
            ways.append((apart, fine))
        return [Search(self.limits, *way, self.costs) for way in ways]


def _without(aims: Mapping[str, tuple[float, float]], given: Collection[str]) -> Goal:
    """Return the goal for some aims; measures that were given up are only reported."""
    return Goal(tuple(Aim(*aim, held=measure not in given) for measure, aim in aims.items()))


def _fallbacks(aims: Mapping[str, tuple[float, float]]) -> list[list[Goal]]:
    """Return goals that drop one aim, then all but one, and come close to the dropped aims."""
    but_one = [frozenset(aims) - {one} for one in aims]
    goals = []
    for some in (but_one, [frozenset({one}) for one in aims] if len(aims) > 2 else []):
        goals.append(
            [
                Goal(tuple(Aim(*aim, held=name in held, near=name not in held) for name, aim in aims.items()))
                for held in some
                if held
            ]
        )
    return goals


def _sized(tunable: Tunable) -> bool:
    return tunable.path == WIDTH or (tunable.part == "block" and tunable.path.rpartition(".")[2] in SHAPING)


def _copied(value: Any) -> Any:
    """Return a deep copy of plain data."""
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list | tuple) else value


def _slot(tree: Any, path: str) -> tuple[Any, str | int]:
    """Return the container of the value at a path, and its key there."""
    *steps, last = (int(step) if step.isdigit() else step for step in path.split("."))
    for step in steps:
        tree = tree[step]
    return tree, last
