"""What passes between a search and Optuna: a knob's answer one way, what became of a question the other."""

from __future__ import annotations

from collections.abc import Iterable

from optuna import Study
from optuna.trial import Trial

from composer.spec.choice import Knob, Value
from composer.spec.space import Space
from search.candidates import Candidate
from search.errors import SearchError
from search.goals import Goals
from search.ledger import Record
from search.rungs import goes_on

OUTCOME = "outcome"
"""Where a told trial says what became of it: a verdict, or `repeat`."""


def suggest(trial: Trial, knob: Knob) -> Value:
    """Return the sampler's answer to a knob."""
    match knob.kind:
        case "categorical":
            answer: Value = trial.suggest_categorical(knob.name, knob.choices)
            return answer
        case "int":
            return trial.suggest_int(knob.name, int(knob.low), int(knob.high), step=knob.step, log=knob.log)
        case _:
            return trial.suggest_float(knob.name, knob.low, knob.high, log=knob.log)


def tell(
    study: Study,
    trial: Trial,
    outcome: str,
    found: Candidate,
    record: Record | None,
    records: Iterable[Record],
    goals: Goals,
) -> None:
    """Tell how a trial ended; one without values of its own gets finite ones and a constraint.

    Raises:
        UpdateFinishedTrialError: it has been told already.
    """
    constraints, values = dict(found.constraints), None
    if record is not None:
        constraints["crashed"] = float(record.status == "crashed")
        values = None if record.status == "crashed" else record.values
        told = {"run": record.folder, "status": record.status, "tokens": record.tokens}
        for name, fact in told.items():
            trial.set_user_attr(name, fact)
    if values is None:
        values = goals.worst((other.values for other in records if other.values is not None), found.costs)
    already = trial.constraints
    for name, value in constraints.items():
        if name not in already:
            trial.set_constraint(name, value)
    trial.set_user_attr(OUTCOME, outcome)
    study.tell(trial, values, skip_if_finished=True)


def holds(record: Record, records: Iterable[Record], goals: Goals, keep: float) -> bool:
    """Whether a record goes on from the milestone it has just reached, against those there before."""
    rung = len(record.seen) - 1
    own, *others = (
        goals.ascending(other.seen[rung].values)
        for other in [record, *(other for other in records if other is not record)]
        if len(other.seen) > rung
    )
    return goes_on(own, others, keep)


def refuse_seed_knob(space: Space) -> None:
    """Refuse a space whose points differ in the seed alone.

    Raises:
        SearchError: `train.seed` is a knob.
    """
    if any(knob.name == "train.seed" for knob in space.knobs):
        raise SearchError(
            "train.seed: expected one seed for all candidates, got a choice; specs that differ in the "
            "seed alone are the same to a search"
        )
