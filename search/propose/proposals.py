"""Sources of drafts for a proposal: Optuna's samplers, called as Optuna calls them.

A source yields one draft after another. Between two of them the caller says in `refused` which drafts were
over a cap or no valid spec, and a source may learn from that.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna import Study
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from composer.language.parsing.choice import SearchParameter, Value
from composer.language.space import Ask, Space
from search.compare.fronts import fronts
from search.propose.candidates import Judged
from search.propose.moves import Parent

PLAN = "plan"
"""The system attribute of a trial that holds its point from its creation on."""
MISSES = "misses"
"""The system attribute with infeasible drafts made before it: their points, and their excess over caps."""

SHOWN = 1000
"""Most completed trials that a sampler is shown whose time grows with them: the better half of this, the rest
the latest."""
_FAR = 2.0
"""The largest excess over a cap that is recorded, as a share of the cap."""
_EXCESS = "excess"

MakeSampler = Callable[[int], BaseSampler]


@dataclass(frozen=True)
class Draft:
    """A point as a function of parameters, and the trained points it was made from."""

    ask: Ask
    parents: tuple[Parent, ...] = ()


class Source(ABC):
    """A source of drafts; a sampler of another package derives its own, or wraps one of Optuna's."""

    tries: int = 24
    """Number of drafts that are costed for one proposal."""
    names_parents: bool = False
    """Whether drafts name the trained points they were made from, which are then written on the trial."""
    learns_from_refused: bool = False
    """Whether the nearest misses of a proposal are written on its trial, for later proposals."""

    @abstractmethod
    def drafts(
        self, study: Study, trial: FrozenTrial, seeds: Iterable[int], refused: Sequence[Judged]
    ) -> Iterator[Draft]:
        """Make one draft for each seed, a function of the seed, the study and `refused`."""


class DirectSource(Source):
    """Drafts of an Optuna sampler on the study itself."""

    def __init__(self, make: MakeSampler, tries: int) -> None:
        self.make, self.tries = make, tries

    def drafts(
        self, study: Study, trial: FrozenTrial, seeds: Iterable[int], refused: Sequence[Judged]
    ) -> Iterator[Draft]:
        """Create a new sampler for each draft, so that no random state lives in the process."""
        for seed in seeds:
            yield Draft(_ask(self.make(seed), study, trial))


class SurrogateSource(Source):
    """Drafts of an Optuna sampler on a copy of the study, in which refused drafts are infeasible trials.

    So a sampler that handles constraints learns from every draft that was costed, and the study contains no
    unwanted trials. Running trials are in the copy with all their values.
    """

    learns_from_refused = True

    def __init__(self, space: Space, make: MakeSampler, tries: int) -> None:
        self.make, self.tries = make, tries
        self._distributions = distributions(space)

    def drafts(
        self, study: Study, trial: FrozenTrial, seeds: Iterable[int], refused: Sequence[Judged]
    ) -> Iterator[Draft]:
        """Create a new sampler for each draft."""
        trials = study.get_trials(deepcopy=False)
        complete = [each for each in trials if each.state == TrialState.COMPLETE]
        worst, left_out = _worst(study, complete), _left_out(study, complete)
        copy = optuna.create_study(directions=study.directions)
        copy.add_trials(
            [
                made
                for each in trials
                if each.number not in left_out
                for made in self._copied(each, trial, worst)
            ]
        )
        learned = 0
        for seed in seeds:
            for miss in refused[learned:]:
                copy.add_trial(self._infeasible(miss.params, miss.excess, worst))
            learned = len(refused)
            asked = copy.ask()
            frozen = copy.get_trials(deepcopy=False)[asked.number]
            yield Draft(_ask(self.make(seed), copy, frozen))
            copy.tell(asked, state=TrialState.FAIL)

    def _copied(self, each: FrozenTrial, own: FrozenTrial, worst: list[float]) -> Iterator[FrozenTrial]:
        if each.number == own.number:
            return
        if each.state == TrialState.COMPLETE:
            excess = max(each.constraints.values(), default=0.0)
            yield self._made(each.params, values=each.values, constraints={_EXCESS: min(excess, _FAR)})
        elif each.state == TrialState.RUNNING:
            yield self._made(each.system_attrs.get(PLAN, each.params), state=TrialState.RUNNING)
        for params, excess in each.system_attrs.get(MISSES, ()):
            yield self._infeasible(params, excess, worst)

    def _infeasible(self, params: dict[str, Any], excess: float, worst: list[float]) -> FrozenTrial:
        return self._made(params, values=worst, constraints={_EXCESS: min(excess, _FAR)})

    def _made(self, params: dict[str, Any], **facts: Any) -> FrozenTrial:
        asked = {name: self._distributions[name] for name in params}
        return create_trial(params=params, distributions=asked, **facts)


def misses(refused: Sequence[Judged], most: int = 4) -> list[tuple[dict[str, Value], float]]:
    """Return the few nearest refused drafts, to be written on a trial."""
    known = [miss for miss in refused if miss.params]
    nearest = sorted(known, key=lambda miss: miss.excess)[:most]
    return [(miss.params, min(miss.excess, _FAR)) for miss in nearest]


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """Return all parameters of a space in Optuna's form."""
    return {parameter.name: distribution(parameter) for parameter in space.parameters}


def distribution(parameter: SearchParameter) -> BaseDistribution:
    """Return Optuna's form of a parameter."""
    match parameter.kind:
        case "categorical":
            return CategoricalDistribution(parameter.choices)
        case "int":
            return IntDistribution(
                int(parameter.low), int(parameter.high), step=parameter.step, log=parameter.log
            )
        case _:
            return FloatDistribution(parameter.low, parameter.high, log=parameter.log)


def _ask(inner: BaseSampler, study: Study, trial: FrozenTrial) -> Ask:
    """Sample as Optuna does: the relative search space first, the rest one by one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        together = inner.infer_relative_search_space(study, trial)
        proposed = inner.sample_relative(study, trial, together)

    def ask(parameter: SearchParameter) -> Value:
        answer: Value = proposed.get(parameter.name)
        if parameter.name not in proposed or not parameter.holds(answer):
            answer = inner.sample_independent(study, trial, parameter.name, distribution(parameter))
        return answer

    return ask


def _left_out(study: Study, complete: Sequence[FrozenTrial]) -> set[int]:
    """Return the completed trials that a sampler is not shown: neither among the best nor the latest."""
    if len(complete) <= SHOWN:
        return set()
    points = [ascending(study, each) for each in complete]
    ranks = {each.number: rank for each, rank in zip(complete, fronts(points), strict=True)}
    infeasible = {each.number: max(each.constraints.values(), default=0.0) > 0 for each in complete}
    best_first = sorted(ranks, key=lambda number: (infeasible[number], ranks[number]))
    return set(sorted(best_first[SHOWN // 2 :])[: -SHOWN // 2])


def ascending(study: Study, trial: FrozenTrial) -> tuple[float, ...]:
    """Return the values of a trial with changed signs, so that larger is better for each."""
    return tuple(sign * value for sign, value in zip(_signs(study), trial.values, strict=True))


def _signs(study: Study) -> list[int]:
    return [1 if way == StudyDirection.MAXIMIZE else -1 for way in study.directions]


def _worst(study: Study, complete: Sequence[FrozenTrial]) -> list[float]:
    """Return the worst value of each objective so far, 0 without any."""
    points = [ascending(study, trial) for trial in complete]
    return [sign * min((point[i] for point in points), default=0.0) for i, sign in enumerate(_signs(study))]
