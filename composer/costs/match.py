"""Matched baselines: the sizes at which one architecture costs what another does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, log
from typing import Any

from composer.costs.fast import Coster
from composer.costs.fit import Measures, Move, made
from composer.costs.knobs import Knob, Knobs, Tree, Values, find
from composer.costs.solve import Point, Problem, solve
from composer.spec.errors import Fault, SpecError, close, listed
from composer.spec.models import Spec
from composer.spec.show import document

TOLERANCE = {
    "params": 1.0,
    "active_params": 1.0,
    "flops_per_token": 2.0,
    "train_flops": 2.0,
    "train_memory": 5.0,
    "cache_bytes_per_token": 1.0,
    "depth_cache_bytes": 1.0,
}
"""What can be matched, and by default to how many percent."""
MATCHED = ("params", "flops_per_token", "train_memory")
"""What is matched if nothing else is asked for."""

SHORT = {"cache": "cache_bytes_per_token"}
"""Short names."""

_TRAINED = ("train_memory", "train_flops")
# a ratio for what is 0 on one side only
_FAR = 5.0
# what is freed before all sizes are: the state's width stays as long as it can
_FIRST = (("hidden", "experts"), ("hidden", "experts", "active"), ("hidden", "experts", "active", "width"))
# rows of experts have to be multiples of 8, other sizes had better be
_FINE = 2
# knobs of such values move in large steps, which a descent does not find back from
_COARSE = 8
_DOUBLINGS = 3
# tolerances away from which no other start has been seen to lead back
_HOPELESS = 20


@dataclass(frozen=True)
class Residual:
    """One measure of the matched spec and of its target."""

    measure: str
    value: float
    target: float
    tolerance: float

    @property
    def percent(self) -> float:
        """By how much the value is off its target, in percent of it."""
        if self.value == self.target:
            return 0.0
        return 100 * (self.value / self.target - 1) if self.target else inf

    @property
    def holds(self) -> bool:
        """Whether it is within the tolerance."""
        return abs(self.percent) <= self.tolerance


@dataclass(frozen=True)
class Match:
    """A spec that costs what its target does, as nearly as its free knobs allow."""

    spec: Spec
    moves: tuple[Move, ...]
    residuals: tuple[Residual, ...]

    @property
    def holds(self) -> bool:
        """Whether every residual is within its tolerance."""
        return all(residual.holds for residual in self.residuals)


def match(
    base: Spec,
    target: Spec,
    on: Sequence[str] = MATCHED,
    free: Sequence[str] | None = None,
    tolerance: Mapping[str, float] | None = None,
    *,
    name: str | None = None,
    measures: Measures | None = None,
) -> Match:
    """Solve the free knobs of `base` for the costs of `target`; deterministic.

    The result keeps the architecture of `base`; vocabulary, context and training are those of the target,
    so that memory is that of the same micro-batch. Caps are left out on both sides: nothing is recomputed.
    Without `free`, sizes are freed in this order, until all residuals are within their tolerances: hidden
    sizes and experts; active experts; the width; heads and their sizes; then steps finer than 8. The numbers
    of steps and layers, windows and the mix stay.

    Args:
        on: measures, of `TOLERANCE`.
        free: labels or paths of knobs.
        tolerance: percent by measure, where not the default; infinite for one that is only told.
        name: of the result; by default `BASE-at-TARGET`.
        measures: what costs trees.

    Raises:
        SpecError: an unknown measure or knob, a target without `train` where memory or training FLOPs are
            compared, or a base that makes no valid spec with the target's training.
    """
    on = list(dict.fromkeys(measure_named(each) for each in on))
    wanted = {**TOLERANCE, **{measure_named(each): far for each, far in (tolerance or {}).items()}}
    if target.train is None and (trained := [name for name in on if name in _TRAINED]):
        verb = "is" if len(trained) == 1 else "are"
        expected = f"a `train` section, which {listed(trained, 'and')} {verb} compared by"
        raise SpecError([target.fault_at(("train",), expected, "none")])
    measures = measures or Coster(on)
    found = measures(_bare(document(target)))
    aims = {measure: (found[measure], wanted[measure]) for measure in on}
    return match_to(base, target, aims, free, name=name, measures=measures)


def match_to(
    base: Spec,
    like: Spec,
    aims: Mapping[str, tuple[float, float]],
    free: Sequence[str] | None = None,
    *,
    name: str | None = None,
    measures: Measures | None = None,
) -> Match:
    """Solve the free knobs of `base` for costs given as numbers, as `match` does for those of a spec.

    Args:
        like: whose vocabulary, context and training are taken; without `train`, neither memory nor training
            FLOPs are to be aimed at.
        aims: by measure what it is to be, and the tolerance in percent.
        free: labels or paths of knobs.
        name: of the result; by default `BASE-at-LIKE`.
        measures: what costs trees.

    Raises:
        SpecError: an unknown knob, or a base that makes no valid spec with the training of `like`.
    """
    measures = measures or Coster(aims)
    matching = _Matching(base, like, aims, measures, name)
    values = matching.solved(free)
    tree = matching.tree(values)
    costs = measures(tree)
    moves = (
        Move(knob.label, knob.value, values[knob.path], knob.path)
        for knob in matching.free(free)
        if values.get(knob.path, knob.value) != knob.value
    )
    residuals = (Residual(measure, costs[measure], *aim) for measure, aim in aims.items())
    return Match(made(tree), tuple(moves), tuple(residuals))


def measure_named(name: str) -> str:
    """Return the full name of a measure.

    Raises:
        SpecError: there is none of that name.
    """
    full = SHORT.get(name, name)
    if full not in TOLERANCE:
        hint = close(name, TOLERANCE)
        raise SpecError(
            [Fault("measures", 0, 0, "", f"some of {listed(TOLERANCE, 'and')}", repr(name), hint)]
        )
    return full


def _bare(tree: Tree) -> Tree:
    """Return a tree without its caps, whose costs nothing bends."""
    return {name: value for name, value in tree.items() if name != "caps"}


class _Matching:
    """One base on its way to the costs aimed at, trained as another spec is."""

    def __init__(
        self,
        base: Spec,
        like: Spec,
        aims: Mapping[str, tuple[float, float]],
        measures: Measures,
        name: str | None,
    ) -> None:
        self._knobs, self._apart = Knobs(base), Knobs(base, apart=True)
        self._base, self._aims, self._measures = base, aims, measures
        self._given = document(like)
        self._name = name or f"{base.name[:48]}-at-{like.name[:48]}"
        self._known: dict[tuple[tuple[str, int], ...], list[float] | None] = {}
        # defaults are written out, so that heads keep their size where the width moves
        self._sizes = self._apart.unset
        self.residuals({}, raising=True)

    def tree(self, values: Values) -> Tree:
        """Return the base with some values, to be trained as `like` is."""
        given: dict[str, Any] = self._given
        tree = _bare(self._knobs.tree({**self._sizes, **values}))
        model = {**tree["model"], "vocab": given["model"]["vocab"], "context": given["model"]["context"]}
        tree = {**tree, "name": self._name, "model": model, "train": given.get("train")}
        return {key: value for key, value in tree.items() if value is not None}

    def residuals(self, values: Values, *, raising: bool = False) -> list[float] | None:
        """Return logarithmic residuals in units of the tolerances; None where there is no valid spec."""
        key = tuple(sorted(values.items()))
        if key not in self._known:
            try:
                costs = self._measures(self.tree(values))
            except SpecError:
                if raising:
                    raise
                self._known[key] = None
            else:
                self._known[key] = [
                    100 * _ratio(costs[name], aim) / tolerance
                    for name, (aim, tolerance) in self._aims.items()
                ]
        return self._known[key]

    def free(self, names: Sequence[str] | None) -> list[Knob]:
        """Return the knobs that may move, each once."""
        if names is None:
            return [knob for knob in self._apart.all if knob.part in ("width", "block") and not _kept(knob)]
        # names of `let` move what they set together; training is taken over
        known = dict.fromkeys(knob for knob in (*self._knobs.all, *self._apart.all) if knob.part != "train")
        return list(dict.fromkeys(find(list(known), name, self._base.name) for name in names))

    def solved(self, names: Sequence[str] | None) -> dict[str, int]:
        """Return the values of the least freedom that brings every residual below its tolerance."""
        best: dict[str, int] = {}
        for knobs in _freedoms(self.free(names), asked=names is not None):
            for start in self._starts(knobs, best):
                best = min(best, self._best(knobs, start), key=self._worst)
                if self._worst(best) <= 1:
                    return best
        return best

    def _best(self, knobs: Sequence[Knob], start: Values) -> dict[str, int]:
        def residuals(point: Point) -> list[float] | None:
            return self.residuals(_values(knobs, point))

        point = tuple(start.get(knob.path, knob.value) for knob in knobs)
        return _values(knobs, solve(Problem(knobs, point, residuals)))

    def _starts(self, knobs: Sequence[Knob], best: Values) -> Iterator[Values]:
        """Yield where to start from: the base, the best so far, then few or many heads and active experts."""
        yield {}
        if best:
            yield best
        if self._worst(best) > _HOPELESS:
            return
        for knob in knobs:
            if knob.value <= _COARSE:
                for value in (1, 2 * knob.value, 4 * knob.value):
                    start = self._valid(knobs, {**best, knob.path: value}, knob)
                    if start is not None:
                        yield start

    def _valid(self, knobs: Sequence[Knob], start: dict[str, int], moved: Knob) -> dict[str, int] | None:
        """Return a start, with sizes of the same block doubled until it is valid; None where that fails."""
        block = moved.path.rpartition(".")[0]
        others = [knob for knob in knobs if knob.path.rpartition(".")[0] == block and knob != moved]
        for _ in range(_DOUBLINGS):
            if self.residuals(start) is not None:
                return start
            doubled = ({**start, o.path: 2 * start.get(o.path, o.value)} for o in others)
            start = next((trial for trial in doubled if self.residuals(trial) is not None), start)
        return None

    def _worst(self, values: Values) -> float:
        found = self.residuals(values)
        return inf if found is None else max(map(abs, found), default=0.0)


def _values(knobs: Sequence[Knob], point: Point) -> dict[str, int]:
    return {knob.path: now for knob, now in zip(knobs, point, strict=True) if now != knob.value}


def _kept(knob: Knob) -> bool:
    """Whether a knob is about what a block sees, not about its size."""
    return knob.path.endswith(".window")


def _freedoms(knobs: Sequence[Knob], *, asked: bool) -> Iterator[list[Knob]]:
    """Yield ever larger sets of knobs, and at last finer steps of what hardware does not need in eights."""
    if not asked:
        for fields in _FIRST:
            yield [knob for knob in knobs if knob.path.rpartition(".")[2] in fields]
    yield list(knobs)
    grouped = {knob.path.rpartition(".")[0] for knob in knobs if knob.path.endswith(".experts")}
    fine = [
        knob for knob in knobs if knob.path.rpartition(".")[0] not in {*grouped, "model" if grouped else ""}
    ]
    if any(knob.grain > _FINE for knob in fine):
        yield [replace(knob, grain=min(knob.grain, _FINE)) if knob in fine else knob for knob in knobs]


def _ratio(value: float, aim: float) -> float:
    if value == aim:
        return 0.0
    return log(value / aim) if value and aim else _FAR
