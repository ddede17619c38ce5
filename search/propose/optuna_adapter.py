"""What passes between a search and Optuna: a knob's answer one way, what became of a question the other."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from optuna import Study
from optuna.trial import Trial

from composer.language.parsing.choice import Knob, Value
from search.objectives import Goals, Values
from search.propose.candidates import Candidate
from search.store.ledger import Record

OUTCOME = "outcome"
"""Where a told trial says what became of it: a verdict, `repeat` or `imported`."""
IMPORTED = "imported"
"""The outcome of a trial that nobody proposed here: a result of another search."""


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
    constraints, values, facts = answer(found, record, records, goals)
    for name, fact in facts.items():
        trial.set_user_attr(name, fact)
    already = trial.constraints
    for name, value in constraints.items():
        if name not in already:
            trial.set_constraint(name, value)
    trial.set_user_attr(OUTCOME, outcome)
    study.tell(trial, values, skip_if_finished=True)


def answer(
    found: Candidate, record: Record | None, records: Iterable[Record], goals: Goals
) -> tuple[dict[str, float], Values, dict[str, Any]]:
    """Return what a sampler is told of a candidate: constraints, values, and facts for readers of trials."""
    constraints, values, facts = dict(found.constraints), None, dict[str, Any]()
    if record is not None:
        constraints["crashed"] = float(record.status == "crashed")
        values = None if record.status == "crashed" else record.values
        facts = {"run": record.folder, "status": record.status, "tokens": record.tokens}
    if values is None:
        values = goals.worst((other.values for other in records if other.values is not None), found.costs)
    return constraints, values, facts
