"""Why a search ends or cannot continue, as messages for the user."""

from __future__ import annotations

import traceback
from collections import Counter
from pathlib import Path

from optuna import Study
from optuna.trial import FrozenTrial

from composer.costs.base.units import count_text
from composer.language.space import Space
from composer.training.folder.errors import TrainingError
from composer.training.folder.files import write_text
from composer.training.folder.metrics import read_metrics
from composer.training.folder.run_folder import METRICS
from search.errors import Crash
from search.progress.state import State
from search.progress.words import titled
from search.propose.candidates import INVALID, candidate
from search.store.ledger import ENDED, Record


def over(state: State, folder: Path, fruitless: int) -> str | None:
    """Return why no further trial is started, or "" if one may be.

    Args:
        state: where the search stands.
        folder: of the search.
        fruitless: consecutive proposals without a new feasible spec, if too many, else 0.
    """
    if state.trials_left() <= 0:
        done = state.ledger.digest.count("trial", *ENDED, imported=False)
        return "the only trial is done" if done == 1 else f"all {done} trials are done"
    for account in state.accounts():
        if account.used_up:
            limit = f"{account.text(account.limit)} {account.name}"
            return f"the budget of {limit} is used up after {state.counted()}"
    if fruitless:
        return (
            f"no new feasible spec in {fruitless} proposals in a row: the space seems exhausted after "
            f"{state.counted()}; to go on, add choices to the space or raise a cap, and search it with "
            f"`--import {folder}`"
        )
    return None


def hopeless(space: Space, study: Study) -> str:
    """Return why no point of the space is feasible: the cap exceeded most often, and the nearest miss."""
    trials = [trial for trial in study.get_trials(deepcopy=False) if trial.constraints]
    costed = [trial for trial in trials if INVALID not in trial.constraints]
    message = f"{space.name}: none of {len(trials)} candidates is feasible"
    if not costed:
        params = trials[0].params
        fault = candidate(space, lambda parameter: params[parameter.name]).why
        return f"{message}, for none is a valid spec; the first one: {fault}"
    exceeded = Counter(cap for trial in costed for cap in _violated(trial))
    cap, times = exceeded.most_common(1)[0]
    nearest = min(costed, key=lambda trial: max(trial.constraints.values()))
    missed = ", ".join(f"{cap} by {100 * value:.3g} %" for cap, value in _violated(nearest).items())
    answers = ", ".join(f"{name}={value}" for name, value in nearest.params.items())
    return (
        f"{message}; {len(costed)} are valid specs, and {times} of these are over caps.{cap}\n"
        f"the nearest miss exceeds {missed}: {answers}\n"
        f"raise caps.{cap}, or widen the space towards smaller models"
    )


def taken_over(state: State, record: Record) -> str:
    """Return whose run is resumed, and from which step."""
    name = titled(state, record)
    return f"{name}: taken over from worker {state.left_by}, from {count_text(state.step.tokens)} tokens on"


def crashing(folder: Path, crashes: list[Record]) -> str:
    """Return why consecutive crashes end a search, and what would help."""
    reasons = "\n".join(f"  {folder / record.folder}: {record.reason}" for record in crashes)
    return (
        f"{len(crashes)} candidates in a row could not be trained:\n{reasons}\n"
        "if the machine is the cause, fix it; if the space is, narrow it (a lower train.lr or more warmup "
        "against losses that are not finite, caps.train_memory against a lack of memory). "
        "The same command continues with other candidates"
    )


def leave_cause(folder: Path, crash: Crash) -> None:
    """Write the traceback of a crash's cause, if it has one, into the run's folder."""
    if crash.__cause__ is not None:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "error.txt", "".join(traceback.format_exception(crash.__cause__)))


def last_read(folder: Path) -> int:
    """Return the training tokens at the last row of a run's metrics, or 0 if there is none.

    Rows are at least as frequent as checkpoints.
    """
    try:
        rows = read_metrics(folder / METRICS)
        return int(rows[-1]["tokens"]) if rows else 0
    except (TrainingError, OSError, KeyError, ValueError, OverflowError):
        return 0


def _violated(trial: FrozenTrial) -> dict[str, float]:
    return {name: value for name, value in trial.constraints.items() if value > 0}
