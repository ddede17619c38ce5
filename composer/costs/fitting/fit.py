"""Finds the nearest spec within its caps: sufficient single tunables, and the smallest sufficient change."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, islice
from math import inf, isqrt, log

from composer.costs.base.budget import Budget, OutOfBudget
from composer.costs.base.budget import size as operations_of
from composer.costs.base.units import amount, count_text
from composer.costs.counting.count import Costs, count_graph
from composer.costs.counting.plan import Plan, make_plan
from composer.costs.fitting.tunables import Numbers, Tree, Tunable, Tunables
from composer.costs.tracing.traced_cost import Coster
from composer.graph.compile import compile_graph
from composer.language.load import resolve_spec
from composer.language.schema.spec import Spec
from composer.settings.errors import Fault, SpecError
from composer.settings.tree import Place, planted

Measures = Callable[[Tree], Mapping[str, float]]
"""Returns the costs of a tree by measure; raises SpecError if it is not a valid spec."""

_MOST_TUNABLES = 3
"""All sets of up to this many tunables are tried, then only all tunables together."""
_HALVINGS = 10
SUGGESTING = 8_000
"""Maximum number of costed operations for the suggestions of `check`; shipped specs take up to 2,600."""
_FITTING = 100_000
"""The same for `fit`; shipped specs take up to 10,000."""
# what defaults of other sizes follow
_SHAPING = ("model.width",)
_TRIES = 8
_TRIES_FAR = 200
_LARGEST_DIVISOR = 1000
# accumulating changes nothing that is learned; the size of a batch and the length of a run change no model
_WEIGHT = {"train.accumulate": 0.05, "train.batch_tokens": 2.0, "train.tokens": 2.0}


@dataclass(frozen=True)
class Move:
    """One tunable with another value."""

    label: str
    old: int
    new: int
    path: str

    def __str__(self) -> str:
        return f"{self.label} {self.old} -> {self.new}"


@dataclass(frozen=True)
class Fitted:
    """A spec within its caps, and the changes that were needed."""

    spec: Spec
    moves: tuple[Move, ...]


class Fitting:
    """A spec's tunables and hard caps; costing a candidate is charged to the budget."""

    def __init__(self, plan: Plan, budget: Budget, measures: Measures | None = None) -> None:
        self.spec = spec = plan.spec
        self.limits = spec.caps.limits()
        self.tunables = Tunables(spec)
        self.budget = budget
        self._size = operations_of(plan.graph)
        self._measures = measures or measured_by(plan)
        self._known: dict[tuple[tuple[str, int], ...], Mapping[str, float] | None] = {}

    def costs(self, values: Mapping[str, int]) -> Mapping[str, float] | None:
        """Return the costs with other values for some tunables; None if the spec is invalid."""
        if not any(path in _SHAPING or path.startswith("let.") or path.endswith(".heads") for path in values):
            # with defaults written out all candidates have one structure, which is costed faster
            values = {**self.tunables.unset, **values}
        key = tuple(sorted(values.items()))
        if key not in self._known:
            self.budget.spend(self._size)
            try:
                self._known[key] = self._measures(self.tunables.tree(values))
            except SpecError:
                self._known[key] = None
        return self._known[key]

    def over(self, values: Mapping[str, int]) -> list[str]:
        """Return the caps that a valid spec with these values exceeds."""
        costs = self.costs(values)
        assert costs is not None
        return [cap for cap, limit in self.limits.items() if costs.get(cap, 0) > limit]

    def helps(self, tunable: Tunable) -> bool:
        """Whether moving a tunable to its limit lowers a cost that exceeds its cap."""
        here, far = self.costs({}), self._far(tunable, cheaper(self.spec, tunable))
        there = None if far is None else self.costs({tunable.path: cheaper(self.spec, tunable)[far]})
        if here is None or there is None:
            return False
        return any(there.get(cap, inf) < here[cap] for cap in self.over({}))

    def fits(self, values: Mapping[str, int]) -> bool:
        """Whether these values give a valid spec within all caps."""
        return self.costs(values) is not None and not self.over(values)

    def _far(self, tunable: Tunable, choices: Sequence[int]) -> int | None:
        """Return the index of the farthest valid value."""
        places = islice(reversed(range(len(choices))), _TRIES_FAR)
        return next((i for i in places if self.costs({tunable.path: choices[i]}) is not None), None)

    def nearest(self, tunable: Tunable, caps: Sequence[str]) -> int | None:
        """Return the nearest value of a tunable at which none of `caps` is exceeded.

        Costs are assumed to fall with the value, so bisection finds it; the result is costed.
        """
        choices = cheaper(self.spec, tunable)

        def fits(i: int) -> bool | None:
            values = {tunable.path: choices[i]}
            return None if self.costs(values) is None else not set(caps) & set(self.over(values))

        far = self._far(tunable, choices)
        if far is None or not fits(far):
            return None
        near = -1
        while far - near > 1:
            middle = (near + far) // 2
            around = _outward(middle, near + 1, far)
            valid = next((i for i in around if fits(i) is not None), None)
            if valid is None:
                break
            near, far = (near, valid) if fits(valid) else (valid, far)
        return choices[far]


def _outward(middle: int, start: int, stop: int) -> Iterator[int]:
    """Yield the numbers from `start` to below `stop`, those nearest to one of them first, some hundreds."""
    yield middle
    for far in range(1, _TRIES_FAR):
        yield from (i for i in (middle - far, middle + far) if start <= i < stop)


def measured_by(plan: Plan) -> Measures:
    """Return a function that costs trees of a plan's spec, with the recomputed operations of that plan.

    All sizes recompute the same operations. That may not be the cheapest choice for them, but choosing takes
    longer than everything else.
    """

    def counted(other: Spec) -> Costs:
        return count_graph(other, compile_graph(other, recompute=plan.recomputed))

    return Coster(plan.spec.caps.limits(), counted)


def made(tree: Tree) -> Spec:
    """Return the spec of a plain tree."""
    return resolve_spec(planted(tree, Place(str(tree["name"]))))


def cheaper(spec: Spec, tunable: Tunable) -> Sequence[int]:
    """Return the values of a tunable that may cost less, nearest first."""
    if tunable.path == "train.accumulate":
        assert spec.train is not None
        return [n for n in divisors(spec.train.batch_sequences) if n > tunable.value]
    return Numbers(tunable.sensible, range(tunable.sensible.rank(tunable.value - 1), 0, -1))


def divisors(number: int) -> list[int]:
    """Return the divisors of a number; for a large one, those up to 1,000 and their cofactors."""
    small = [n for n in range(1, min(isqrt(number), _LARGEST_DIVISOR) + 1) if number % n == 0]
    return sorted({*small, *(number // n for n in small)})


def suggestions(plan: Plan, over: Sequence[str], budget: Budget | None = None) -> dict[str, list[Move]]:
    """Return for each exceeded cap the tunables that suffice alone, each at its nearest sufficient value.

    A value that fits all caps is preferred to one that fits this cap alone; the nearest come first. Memory is
    that with the operations that the spec itself recomputes; with others a smaller change may suffice. When
    the budget is spent, the tunables found so far are returned.
    """
    fitting = Fitting(plan, budget or Budget(SUGGESTING))
    by_cap: dict[str, list[Move]] = {}
    try:
        if fitting.costs({}) is None:
            return {}
        for cap in (cap for cap in over if cap in fitting.over({})):
            moves = by_cap[cap] = []
            for tunable in fitting.tunables.all:
                value = fitting.nearest(tunable, list(fitting.limits)) or fitting.nearest(tunable, [cap])
                moves += [] if value is None else [_move(tunable, value)]
    except OutOfBudget:
        pass
    return {cap: sorted(moves, key=_distance) for cap, moves in by_cap.items()}


def fit(spec: Spec) -> Fitted:
    """Return the nearest spec within its caps: as few tunables as possible, changed as little as possible.

    Raises:
        SpecError: no sizes fit (the message says which cap cannot be met, and the best value
            found), or none were found before the budget was spent.
    """
    plan, budget = make_plan(spec), Budget(_FITTING)
    try:
        fitting = Fitting(plan, budget)
        if not fitting.over({}):
            return Fitted(spec, ())
        fitted = _fitted(fitting)
        if Fitting(make_plan(fitted.spec), budget).over({}):
            # other operations have to be recomputed: choose them for each candidate, which is slow
            return _fitted(Fitting(plan, budget, Coster(spec.caps.limits())))
        return fitted
    except OutOfBudget:
        expected = f"sizes that fit, found within {count_text(budget.total)} operations costed"
        hint = "start nearer to the caps, or with fewer blocks and stages"
        raise SpecError([spec.fault(("caps",), expected, "none so far", hint)]) from None


def _fitted(fitting: Fitting) -> Fitted:
    moves = _least(fitting)
    if moves is None:
        raise SpecError(_unreachable(fitting))
    tree = fitting.tunables.tree({move.path: move.new for move in moves})
    return Fitted(made({**tree, "name": f"{fitting.spec.name[:95]}-fit"}), tuple(moves))


def _least(fitting: Fitting) -> list[Move] | None:
    tunables = [tunable for tunable in fitting.tunables.all if fitting.helps(tunable)]
    for size in range(1, min(_MOST_TUNABLES, len(tunables)) + 1):
        if best := _best(fitting, combinations(tunables, size)):
            return best
    return _best(fitting, [tunables])


def _best(fitting: Fitting, sets: Iterable[Sequence[Tunable]]) -> list[Move] | None:
    candidates = [moves for tunables in sets if (moves := _shrunk(fitting, tunables))]
    return min(candidates, key=lambda moves: (len(moves), sum(map(_distance, moves))), default=None)


def _shrunk(fitting: Fitting, tunables: Sequence[Tunable]) -> list[Move] | None:
    """Move tunables together until all caps hold, then move each one back as far as the caps allow."""
    if len(tunables) == 1:
        value = fitting.nearest(tunables[0], list(fitting.limits))
        return None if value is None else [_move(tunables[0], value)]
    low, high = 0.0, 1.0
    best = _moved(fitting, tunables, high)
    if fitting.over(best):
        return None
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        values = _moved(fitting, tunables, middle)
        if fitting.over(values):
            low = middle
        else:
            high, best = middle, values
    for tunable in tunables:
        best = _given_back(fitting, best, tunable)
    return [_move(tunable, best[tunable.path]) for tunable in tunables if tunable.path in best]


def _moved(fitting: Fitting, tunables: Sequence[Tunable], share: float) -> dict[str, int]:
    """Move each tunable by a fraction of its range on a log scale, keeping the spec valid."""
    values: dict[str, int] = {}
    for tunable in tunables:
        choices = cheaper(fitting.spec, tunable)
        wanted = _reaching(tunable, choices, abs(log(choices[-1] / tunable.value)) * share)
        # the desired value, or the nearest one that is valid with the others
        for i in islice(_outward(wanted - 1, 0, len(choices)), _TRIES) if wanted else ():
            if fitting.costs({**values, tunable.path: choices[i]}) is not None:
                values[tunable.path] = choices[i]
                break
    return values


def _reaching(tunable: Tunable, choices: Sequence[int], way: float) -> int:
    """Return the number of choices within a distance from the present value on a log scale."""
    return bisect_right(choices, way + 1e-12, key=lambda choice: abs(log(choice / tunable.value)))


def _given_back(fitting: Fitting, values: dict[str, int], tunable: Tunable) -> dict[str, int]:
    """Return the values with one tunable moved back towards its present value as far as the caps allow."""
    if tunable.path not in values:
        return values
    rest = {path: value for path, value in values.items() if path != tunable.path}
    if fitting.fits(rest):
        return rest
    choices = cheaper(fitting.spec, tunable)
    # costs are assumed to fall with the value
    near, far = -1, choices.index(values[tunable.path])
    while far - near > 1:
        middle = (near + far) // 2
        if fitting.fits({**rest, tunable.path: choices[middle]}):
            far = middle
        else:
            near = middle
    return {**rest, tunable.path: choices[far]}


def _unreachable(fitting: Fitting) -> Iterator[Fault]:
    """Report for each cap that cannot be met the lowest cost that was reached."""
    tunables = [tunable for tunable in fitting.tunables.all if fitting.helps(tunable)]
    least = _moved(fitting, tunables, 1.0)
    costs = fitting.costs(least)
    assert costs is not None
    # even if no set of tunables meets all caps, each cap alone may be met
    for cap in fitting.over(least) or fitting.over({}):
        values = ", ".join(
            f"{tunable.label} {least[tunable.path]}" for tunable in tunables if tunable.path in least
        )
        got = f"{amount(cap, costs[cap])} as the best reached" + (f", with {values}" if values else "")
        limit = fitting.limits[cap]
        yield fitting.spec.fault(("caps", cap), f"at most {amount(cap, limit)}", got, "no sizes fit")


def _move(tunable: Tunable, value: int) -> Move:
    return Move(tunable.label, tunable.value, value, tunable.path)


def _distance(move: Move) -> float:
    return abs(log(move.new / move.old)) * _WEIGHT.get(move.path, 1.0)
