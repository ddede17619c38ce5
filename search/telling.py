"""What passes between a search and Optuna: a knob's answer one way, what became of a question the other."""

from __future__ import annotations

from collections.abc import Iterable

from optuna import Study
from optuna.trial import Trial

from composer.spec.choice import Knob, Value
from search.candidates import Candidate
from search.goals import Goals
from search.ledger import Record

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
