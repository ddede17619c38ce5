"""Answers of the sampler to knobs, and ours to its questions."""

from __future__ import annotations

from optuna import Study
from optuna.trial import Trial

from composer.spec.choice import Knob, Value
from search.candidates import Candidate
from search.goals import Values
from search.ledger import Record

OUTCOME = "outcome"
"""The attribute of a told trial that says what it came to: feasible, over, invalid or repeat."""


def suggest(trial: Trial, knob: Knob) -> Value:
    """Ask for the answer to one knob."""
    match knob.kind:
        case "categorical":
            answer: Value = trial.suggest_categorical(knob.name, knob.choices)
            return answer
        case "int":
            return trial.suggest_int(knob.name, int(knob.low), int(knob.high), step=knob.step, log=knob.log)
        case _:
            return trial.suggest_float(knob.name, knob.low, knob.high, log=knob.log)


def answer(
    study: Study, trial: Trial, outcome: str, found: Candidate, record: Record | None, worst: Values
) -> None:
    """Tell a trial, with the values of its record, or the `worst` where it has none.

    Raises:
        UpdateFinishedTrialError: it was told already.
    """
    constraints, values = dict(found.constraints), None
    if record is not None:
        constraints["crashed"] = float(record.status == "crashed")
        values = None if record.status == "crashed" else record.values
        told = {"run": record.folder, "status": record.status, "tokens": record.tokens}
        for name, fact in told.items():
            trial.set_user_attr(name, fact)
    already = trial.constraints
    for name, value in constraints.items():
        if name not in already:
            trial.set_constraint(name, value)
    trial.set_user_attr(OUTCOME, outcome)
    study.tell(trial, worst if values is None else values, skip_if_finished=True)
