"""Evolution on specs: children of trained points by mutation and crossover of their answers.

Parents are chosen by tournament among all trained trials (steady state: no generation has to be complete, so
running trials delay none). A trial that trained longer beats one that was stopped earlier; among equals the
better non-dominated front wins (arXiv 1703.00548, 1802.01548 for mutation with tournaments).
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from optuna import Study
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from composer.language.edits import NO_EDIT
from composer.language.parsing.choice import Knob, Value
from composer.language.space import EDITED, Ask, Space, draw
from search.compare.rungs import fronts
from search.propose.candidates import Judged
from search.propose.moves import Parent, crossed, inherit, mutated
from search.propose.optuna_adapter import IMPORTED, OUTCOME
from search.propose.proposals import Draft, Source

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
        self._knobs = {knob.name: knob for knob in space.knobs}

    def drafts(
        self, study: Study, trial: FrozenTrial, seeds: Iterable[int], refused: Sequence[Judged]
    ) -> Iterator[Draft]:
        """Make one child, or one random point, for each seed."""
        population = ranked(study)
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
                    child = mutated(child, self._knobs, rng, moves)
                return Draft(inherit(rng, child), (first, second))
        return Draft(inherit(rng, mutated(first.params, self._knobs, rng, moves)), (first,))


def ranked(study: Study) -> list[tuple[int, Parent]]:
    """Return the trained points with their ranks, best first, ties in the order of their trials."""
    trained = [
        trial
        for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if trial.user_attrs.get("status") in ("finished", "stopped")
        and trial.user_attrs.get(OUTCOME) in ("feasible", IMPORTED)
    ]
    trained.sort(key=_stage)
    found: list[tuple[int, Parent]] = []
    for _, group in groupby(trained, key=_stage):
        peers = list(group)
        base = 1 + found[-1][0] if found else 0
        ranks = fronts([_ascending(study, trial) for trial in peers])
        order = sorted(range(len(peers)), key=lambda i: (ranks[i], peers[i].number))
        found += [(base + ranks[i], Parent(_name(peers[i]), peers[i].params)) for i in order]
    return found


def _chosen(population: list[tuple[int, Parent]], rng: random.Random) -> Parent:
    players = [rng.choice(population) for _ in range(_TOURNAMENT)]
    return min(players, key=lambda player: player[0])[1]


def _random(rng: random.Random) -> Ask:
    """Draw a point of the space without edits of structure, which moves make."""

    def ask(knob: Knob) -> Value:
        return NO_EDIT if NO_EDIT in knob.choices and knob.name.startswith(EDITED) else draw(knob, rng)

    return ask


def _stage(trial: FrozenTrial) -> tuple[bool, int]:
    """Return a sort key: trials trained in full first, then by tokens."""
    stopped = trial.user_attrs["status"] == "stopped"
    return stopped, -trial.user_attrs["tokens"] if stopped else 0


def _ascending(study: Study, trial: FrozenTrial) -> tuple[float, ...]:
    signs = (1 if way == StudyDirection.MAXIMIZE else -1 for way in study.directions)
    return tuple(sign * value for sign, value in zip(signs, trial.values, strict=True))


def _name(trial: FrozenTrial) -> str:
    """Return the name of the record: its run folder's, else the trial's number."""
    return str(trial.user_attrs.get("run", trial.number)).rpartition("/")[2]
