"""The sampler of a study: it proposes points that are feasible and new, since costs are cheap to compute.

A sampler is asked for a whole point at once. Its drafts are costed until one is within the caps and was not
proposed before; only that one becomes a trial. Every draft has its own seed, from the search's seed, the
trial's number and the draft's number, so a proposal is a function of these and of earlier results, not of the
process. The point is written on the trial, so that another process that takes it over proposes the same one.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial, Trial, TrialState

from composer.language.space import InvalidPoint, Space, draw
from composer.settings.errors import SpecError
from search import optuna_private
from search.propose.candidates import Judge, Judged
from search.propose.draft_counts import DRAWN, Drawn
from search.propose.followed import Followed
from search.propose.moves import Parent, words
from search.propose.proposals import (
    MISSES,
    PLAN,
    Draft,
    Source,
    distributions,
    misses,
)
from search.propose.requirements import sampler_faults
from search.propose.sampler import find_sampler
from search.propose.starts import Start, starts

ORIGIN = "origin"
"""The user attribute of a trial with the origin of a child of evolution: parents' names and moves."""
IDENTITY = "identity"
"""The system attribute that holds the run hash of a feasible point, which is not proposed again."""

_POPULATION = 16
_AGAIN = 200
"""Number of random drafts if all of a sampler's own are infeasible or known."""
_HOPELESS = 50
"""Number of drafts, all random, if the last proposal was infeasible too."""


class Feasible(BaseSampler):
    """Proposes the first draft of a source that is feasible and new; if there is none, the nearest miss.

    Points to start with that were not proposed yet come before any draft.
    """

    def __init__(self, judge: Judge, source: Source, seed: int, starts: Sequence[Start] = ()) -> None:
        self._judge, self._source, self._seed, self._starts = judge, source, seed, starts
        self._distributions = distributions(judge.space)
        self._pasts: WeakKeyDictionary[Study, _Past] = WeakKeyDictionary()

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return all parameters, since they are sampled together."""
        return self._distributions

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the point written on the trial, or find one and write it."""
        if PLAN in trial.system_attrs:
            plan: dict[str, Any] = trial.system_attrs[PLAN]
            return plan
        past = self._pasts.setdefault(study, _Past())
        known = past.known(study, trial.number)
        write, write_system = (
            partial(each, study, trial)
            for each in (optuna_private.set_user_attr, optuna_private.set_system_attr)
        )
        if start := next((each for each in self._starts if not known(each.identity)), None):
            write(ORIGIN, {"parents": [], "moves": [f"start: {start.path}"]})
            write_system(IDENTITY, start.identity)
            write_system(PLAN, start.params)
            return start.params
        draft, parents, drawn, refused = self._propose(study, trial, past.lost, known)
        with optuna_private.together(study):
            write(DRAWN, vars(drawn))
            if self._source.names_parents:
                names = [parent.name for parent in parents]
                write(ORIGIN, {"parents": names, "moves": self._words(draft, parents)})
            if self._source.learns_from_refused and refused:
                write_system(MISSES, misses(refused))
            write_system(IDENTITY, draft.identity)
            # written last: it completes the proposal
            write_system(PLAN, draft.params)
        return draft.params

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Draw a value for a parameter that the trial's point leaves open."""
        inner = RandomSampler(self._seed_of(trial, param_name))
        return inner.sample_independent(study, trial, param_name, param_distribution)

    def _words(self, judged: Judged, parents: tuple[Parent, ...]) -> list[str]:
        try:
            return words(judged.params, parents, self._judge.space.edits)
        except InvalidPoint:
            # the nearest miss, which is not trained
            return words(judged.params, parents)

    def _propose(
        self, study: Study, trial: FrozenTrial, lost: bool, known: Callable[[str], bool]
    ) -> tuple[Judged, tuple[Parent, ...], Drawn, list[Judged]]:
        drawn, refused = Drawn(), list[Judged]()
        nearest: tuple[Judged, tuple[Parent, ...]] | None = None
        for draft, own in self._drafts(study, trial, refused, lost):
            judged = self._judge(draft.ask)
            repeated = judged.feasible and known(judged.identity)
            drawn.costed += 1
            if own:
                drawn.own += 1
                drawn.infeasible += not judged.feasible
                drawn.known += repeated
            if not judged.feasible:
                refused.append(judged)
            drawn.found = int(judged.feasible and not repeated)
            if drawn.found or nearest is None or judged.excess < nearest[0].excess:
                nearest = judged, draft.parents
            if drawn.found:
                break
        assert nearest is not None
        return *nearest, drawn, refused

    def _drafts(
        self, study: Study, trial: FrozenTrial, refused: list[Judged], lost: bool
    ) -> Iterator[tuple[Draft, bool]]:
        """Yield the source's drafts and then random ones, each with whether it is the source's own."""
        if not lost:
            seeds = (self._seed_of(trial, n) for n in range(self._source.tries))
            for draft in self._source.drafts(study, trial, seeds, refused):
                yield draft, True
        rng = random.Random(self._seed_of(trial, "again"))
        for _ in range(_HOPELESS if lost else _AGAIN):
            yield Draft(lambda parameter: draw(parameter, rng)), False

    def _seed_of(self, trial: FrozenTrial, what: object) -> int:
        text = f"{self._seed}/{trial.number}/{what}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


class _Past:
    """The earlier proposals of a study."""

    def __init__(self) -> None:
        self._followed = Followed()
        self._ended: set[str] = set()
        self._last: FrozenTrial | None = None

    @property
    def lost(self) -> bool:
        """Whether the last completed proposal was infeasible or a repeat."""
        return self._last is not None and not self._last.user_attrs[DRAWN]["found"]

    def known(self, study: Study, number: int) -> Callable[[str], bool]:
        """Return whether an identity was proposed, other than by the trial of a number."""
        ended, opened = self._followed.look(study)
        for each in ended:
            self._ended.add(each.system_attrs.get(IDENTITY, ""))
            if each.state == TrialState.COMPLETE and DRAWN in each.user_attrs:
                self._last = max(self._last or each, each, key=lambda one: one.number)
        now = {each.system_attrs.get(IDENTITY, "") for each in opened if each.number != number}
        return lambda identity: identity in self._ended or identity in now


def imported(identity: str) -> dict[str, Any]:
    """Return the system attributes of an imported trial: its identity, and NSGA-II's first generation."""
    return {IDENTITY: identity, optuna_private.generation_key(): 0}


def sampler(space: Space, judge: Judge | None = None) -> BaseSampler:
    """Make the sampler that a space names.

    Args:
        judge: that of the space, if the caller has one.

    Raises:
        SpecError: it needs a package that is not installed, or a spec in `start` is no point of the space.
    """
    if faults := list(sampler_faults(space)):
        raise SpecError(faults)
    source = find_sampler(space.search.sampler).source(space)
    return Feasible(judge or Judge(space), source, space.search.seed, starts(space))


def origin(trial: Trial) -> dict[str, Any]:
    """Return the origin of a trial's point; empty without parents."""
    # this trial object does not see what its sampler wrote
    written = optuna_private.frozen(trial).user_attrs
    stored: dict[str, Any] = written.get(ORIGIN, {})
    return stored
