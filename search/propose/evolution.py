"""Evolution on specs: children of trained points by mutation and crossover of their answers.

Parents are chosen by tournament among all trained trials (steady state: no generation has to be complete, so
running trials delay none). A trial that trained longer beats one that was stopped earlier; among equals the
better non-dominated front wins (arXiv 1703.00548, 1802.01548 for mutation with tournaments).
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from operator import itemgetter
from weakref import WeakKeyDictionary

from optuna import Study
from optuna.trial import FrozenTrial, TrialState

from composer.language.edits import NO_EDIT
from composer.language.parsing.choice import SearchParameter, Value
from composer.language.space import EDITED, Ask, Space, draw
from search.compare.fronts import Fronts
from search.objectives import Values
from search.propose.candidates import Judged
from search.propose.followed import Followed
from search.propose.moves import Parent, crossed, inherit, mutated
from search.propose.optuna_adapter import IMPORTED, OUTCOME
from search.propose.proposals import Draft, Source, ascending

WARMUP = 6
"""Number of trained trials before the first child; until then points are random."""
_IMMIGRANTS = 0.05
"""Probability that a draft is a random point, so that no value dies out."""
_CROSSED = 0.4
"""Probability that a child has two parents; half of these are also mutated."""
_TOURNAMENT = 8


class Evolution(Source):
    """Drafts that are children of trained points; each failed draft makes the next child move further."""

    names_parents = True

    def __init__(self, space: Space, tries: int) -> None:
        self.tries = tries
        self._parameters = {parameter.name: parameter for parameter in space.parameters}
        self._populations: WeakKeyDictionary[Study, Population] = WeakKeyDictionary()

    def drafts(
        self, study: Study, trial: FrozenTrial, seeds: Iterable[int], refused: Sequence[Judged]
    ) -> Iterator[Draft]:
        """Make one child, or one random point, for each seed."""
        population = self._populations.setdefault(study, Population()).ranked(study)
        for n, seed in enumerate(seeds):
            rng = random.Random(seed)
            if len(population) < WARMUP or rng.random() < _IMMIGRANTS:
                yield Draft(_random(rng))
            else:
                yield self._child(population, rng, 1 + n // 6)

    def _child(self, population: list[tuple[int, Parent]], rng: random.Random, moves: int) -> Draft:
        first, second = _chosen(population, rng), _chosen(population, rng)
        if rng.random() < _CROSSED:
            child = crossed(first.params, second.params, rng)
            if child is not None:
                if rng.random() < 0.5:
                    child = mutated(child, self._parameters, rng, moves)
                return Draft(inherit(rng, child), (first, second))
        return Draft(inherit(rng, mutated(first.params, self._parameters, rng, moves)), (first,))


class Population:
    """The trained points of a study, ranked, and kept up to date as trials end."""

    def __init__(self) -> None:
        self._followed = Followed()
        self._stages: dict[tuple[bool, int], Fronts] = {}
        self._parents: dict[tuple[bool, int], dict[Values, list[tuple[int, Parent]]]] = {}

    def ranked(self, study: Study) -> list[tuple[int, Parent]]:
        """Return the points with their ranks, best first, ties in the order of their trials."""
        for trial in self._followed.look(study)[0]:
            if (
                trial.state == TrialState.COMPLETE
                and trial.user_attrs.get("status") in ("finished", "stopped")
                and trial.user_attrs.get(OUTCOME) in ("feasible", IMPORTED)
            ):
                self._add(study, trial)
        ordered: list[tuple[int, Parent]] = []
        rank = 0
        for stage in sorted(self._stages):
            parents = self._parents[stage]
            for layer in self._stages[stage].layers():
                peers = sorted((peer for values in layer for peer in parents[values]), key=itemgetter(0))
                ordered += [(rank, parent) for _, parent in peers]
                rank += 1
        return ordered

    def _add(self, study: Study, trial: FrozenTrial) -> None:
        stage, values = _stage(trial), ascending(study, trial)
        self._stages.setdefault(stage, Fronts()).add(values)
        peers = self._parents.setdefault(stage, {}).setdefault(values, [])
        peers.append((trial.number, Parent(_name(trial), trial.params)))


def _chosen(population: list[tuple[int, Parent]], rng: random.Random) -> Parent:
    players = [rng.choice(population) for _ in range(_TOURNAMENT)]
    return min(players, key=lambda player: player[0])[1]


def _random(rng: random.Random) -> Ask:
    """Draw a point of the space without edits of structure, which moves make."""

    def ask(parameter: SearchParameter) -> Value:
        return (
            NO_EDIT
            if NO_EDIT in parameter.choices and parameter.name.startswith(EDITED)
            else draw(parameter, rng)
        )

    return ask


def _stage(trial: FrozenTrial) -> tuple[bool, int]:
    """Return a sort key: trials trained in full first, then by tokens."""
    stopped = trial.user_attrs["status"] == "stopped"
    return stopped, -trial.user_attrs["tokens"] if stopped else 0


def _name(trial: FrozenTrial) -> str:
    """Return the name of the record: its run folder's, else the trial's number."""
    return str(trial.user_attrs.get("run", trial.number)).rpartition("/")[2]
