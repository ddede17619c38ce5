"""The requirements on every sampler, as functions of its name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import optuna
from optuna import Study
from optuna.trial import Trial

from composer.language.parsing.choice import Value
from composer.language.schema.samplers import samplers
from composer.language.space import Space
from composer.settings.errors import listed
from composer.testing.find import UnknownName
from composer.testing.run import Finding, examined
from search import optuna_private
from search.propose.candidates import Candidate, candidate
from search.propose.feasible import sampler
from search.propose.optuna_adapter import OUTCOME, suggest
from search.propose.proposals import PLAN
from search.testing.spaces import FEW, TWO, toy


def study_of(space: Space) -> Study:
    """Return a study in memory with the sampler that a space names."""
    assert space.search is not None
    directions = [objective.direction for objective in space.search.objectives]
    return optuna.create_study(directions=directions, sampler=sampler(space))


def answered(space: Space, study: Study, trial: Trial | None = None) -> tuple[Candidate, Trial]:
    """Return the parameter values of one trial, a new one unless given."""
    trial = trial or study.ask()
    return candidate(space, partial(suggest, trial)), trial


def finish_trial(study: Study, trial: Trial, *values: float, outcome: str = "feasible") -> None:
    """Tell Optuna how a trial ended, as a search does."""
    for key, value in {"status": "finished", "tokens": 1, OUTCOME: outcome}.items():
        trial.set_user_attr(key, value)
    study.tell(trial, values)


def explored(space: Space, count: int) -> list[tuple[str, dict[str, int]]]:
    """Ask and tell a number of times; return the outcome and the drafts of each proposal."""
    study, known, outcomes = study_of(space), set[str](), list[tuple[str, dict[str, int]]]()
    for number in range(count):
        point, trial = answered(space, study)
        outcome = "repeat" if point.identity in known else point.verdict
        known |= {point.identity} if point.verdict == "feasible" else set()
        finish_trial(study, trial, *(float(number % 3) for _ in study.directions), outcome=outcome)
        outcomes.append((outcome, study.trials[-1].user_attrs["drawn"]))
    return outcomes


def check_feasible(name: str) -> None:
    """Every proposal is within the caps and new, with one objective and with two."""
    for more in ([], [TWO]):
        outcomes = [
            outcome for outcome, _ in explored(toy(f"search.sampler={name}", "caps.params=30k", *more), 14)
        ]
        assert outcomes == ["feasible"] * 14, f"{len(more) + 1} objectives: {', '.join(outcomes)}"


def check_seeds(name: str) -> None:
    """The same seed gives the same points, also in a process that starts later; another gives others."""

    def run(seed: int, *, fresh: bool) -> list[dict[str, Value]]:
        space = toy(f"search.sampler={name}", f"search.seed={seed}")
        study, points = study_of(space), []
        for number in range(12):
            if fresh:
                study.sampler = sampler(space)
            point, trial = answered(space, study)
            finish_trial(study, trial, float(point.costs["params"] % 97 + number % 2))
            points.append(point.params)
        return points

    first = run(0, fresh=False)
    assert first == run(0, fresh=True), "a sampler made anew proposes other points"
    assert first != run(1, fresh=False), "seeds 0 and 1 propose the same points"


def check_resumption(name: str) -> None:
    """A trial that another process takes over keeps its point, whatever was reported since."""
    space = toy(f"search.sampler={name}")
    study = study_of(space)
    suggest(study.ask(), space.parameters[0])
    plan = study.trials[0].system_attrs[PLAN]
    for number in range(10):
        finish_trial(study, answered(space, study)[1], float(number))
    study.sampler = sampler(space)
    point, _ = answered(space, study, optuna_private.running(study, study.trials[0]))
    assert point.params == plan, "a trial taken over is answered otherwise"


def check_at_once(name: str) -> None:
    """Trials asked for before any is reported get different points."""
    space = toy(f"search.sampler={name}", "caps.params=30k")
    study = study_of(space)
    asked = [answered(space, study) for _ in range(8)]
    for number, (_, trial) in enumerate(asked[:7]):
        finish_trial(study, trial, float(number))
    asked += [answered(space, study) for _ in range(4)]
    assert {point.verdict for point, _ in asked} == {"feasible"}
    different = len({point.identity for point, _ in asked})
    assert different == len(asked), f"{different} different points of {len(asked)} that were asked for"


def check_exhausted(name: str) -> None:
    """A space of four points is exhausted, then repeated, with a bounded number of drafts."""
    run = explored(toy(*FEW, f"search.sampler={name}"), 6)
    outcomes = [outcome for outcome, _ in run]
    assert outcomes == ["feasible"] * 4 + ["repeat"] * 2, ", ".join(outcomes)
    most = max(drawn["costed"] for _, drawn in run)
    assert most <= 401, f"{most} drafts for one proposal"


def check_infeasible(name: str) -> None:
    """Without a feasible point the nearest miss is proposed, and the next proposal tries fewer drafts."""
    (first, drawn), *others = explored(toy(f"search.sampler={name}", "caps.params=1k"), 3)
    assert first == "over", first
    assert all(again["own"] == 0 and again["costed"] < drawn["costed"] for _, again in others)


CHECKS: Mapping[str, Callable[[str], None]] = {
    "feasible and new": check_feasible,
    "seeds": check_seeds,
    "resumption": check_resumption,
    "many at once": check_at_once,
    "an exhausted space": check_exhausted,
    "nothing feasible": check_infeasible,
}


def conformance(name: str, settings: Sequence[str] = ()) -> Iterator[Finding]:
    """Yield the failures of each check on a sampler that spaces can name.

    Raises:
        UnknownName: there is no such sampler, or settings are given.
    """
    if settings or name not in samplers():
        raise UnknownName(f"expected a sampler, one of {listed(samplers())}, and no --set; got {name!r}")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return examined({name: name}, CHECKS)
