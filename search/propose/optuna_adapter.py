"""The interface between a search and Optuna: suggested values in one direction, outcomes in the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from optuna import Study
from optuna.trial import Trial

from composer.language.parsing.choice import SearchParameter, Value
from search import optuna_private
from search.objectives import Values
from search.propose.candidates import Candidate
from search.store.ledger import Record

OUTCOME = "outcome"
"""The user attribute with the outcome of a completed trial: a verdict, `repeat` or `imported`."""
IMPORTED = "imported"
"""The outcome of a trial that was not proposed here: a result of another search."""


def suggest(trial: Trial, parameter: SearchParameter) -> Value:
    """Return the sampler's value for a parameter."""
    match parameter.kind:
        case "categorical":
            answer: Value = trial.suggest_categorical(parameter.name, parameter.choices)
            return answer
        case "int":
            return trial.suggest_int(
                parameter.name,
                int(parameter.low),
                int(parameter.high),
                step=parameter.step,
                log=parameter.log,
            )
        case _:
            return trial.suggest_float(parameter.name, parameter.low, parameter.high, log=parameter.log)


def tell(
    study: Study,
    trial: Trial,
    outcome: str,
    proposed: Candidate,
    record: Record | None,
    worst: Callable[[Mapping[str, float]], Values],
) -> None:
    """Tell Optuna how a trial ended; one without values gets the `worst` for its costs, and a constraint.

    Raises:
        UpdateFinishedTrialError: it has ended already.
    """
    constraints, values, facts = answer(proposed, record, worst)
    with optuna_private.together(study):
        already = trial.constraints
        for name, fact in facts.items():
            trial.set_user_attr(name, fact)
        for name, value in constraints.items():
            if name not in already:
                trial.set_constraint(name, value)
        trial.set_user_attr(OUTCOME, outcome)
    study.tell(trial, values, skip_if_finished=True)


def answer(
    proposed: Candidate, record: Record | None, worst: Callable[[Mapping[str, float]], Values]
) -> tuple[dict[str, float], Values, dict[str, Any]]:
    """Return what a sampler learns about a candidate: constraints, values, and user attributes."""
    constraints, values, facts = dict(proposed.constraints), None, dict[str, Any]()
    if record is not None:
        constraints["crashed"] = float(record.status == "crashed")
        values = None if record.status == "crashed" else record.values
        facts = {"run": record.folder, "status": record.status, "tokens": record.tokens}
    if values is None:
        values = worst(proposed.costs)
    return constraints, values, facts
