"""The loop of a search: ask, cost, train in rungs, tell.

Each step leaves enough on disk that the same call after a kill goes on as if nothing had happened: the
sampler's question stays open in the journal until it is told, the record of a spec is written before its
training begins, and training resumes from its own checkpoint.
"""

from __future__ import annotations

import time
import traceback
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from optuna.trial import FrozenTrial, Trial, TrialState

from composer.spec.choice import Knob, Value
from composer.spec.models import Spec
from composer.spec.space import Space
from composer.training.files import write_text
from search.baselines import check_baselines, claim_baselines
from search.candidates import INVALID, Candidate, candidate
from search.errors import Crash, SearchError
from search.folder import JOURNAL, RECORDS, held
from search.goals import Goals
from search.journal import open_study, unfinished
from search.leaderboard import publish
from search.ledger import Ledger, Record, Seen
from search.rungs import goes_on, milestones
from search.samplers import sampler
from search.state import State, Watch, silent
from search.trainer import Step, Train, train

PATIENCE = 1000
"""Proposals in a row without a new feasible spec after which a search ends."""
LOST = 50
"""Proposals in a row without one after which points are drawn at random until there is one."""
CRASHES = 3
"""Crashes in a row after which a search stops."""

_OUTCOME = "outcome"


@dataclass(frozen=True)
class Outcome:
    """How a search ended: where it stands, and why it stopped."""

    folder: Path
    state: State
    reason: str


def run_search(space: Space, folder: Path, train: Train = train, watch: Watch = silent) -> Outcome:
    """Search `space` in `folder`, from where that stands, to its end.

    Raises:
        SpecError: the space has no valid point, or a baseline is over its own caps.
        SearchError: the folder cannot be used, no candidate is feasible, candidates crash in a row, or the
            objectives name what training does not measure.
    """
    assert space.search is not None
    _refuse_seed_knob(space)
    check_baselines(space)
    try:
        with held(folder, space):
            search = _Search(space, folder, train, watch)
            reason = search.run()
            watch("end", search.state)
            return Outcome(folder, search.state, reason)
    except OSError as error:
        raise SearchError(
            f"{error.filename or folder}: {error.strerror or error}\n"
            "what was written before is whole; the same command goes on from there"
        ) from None


class _Search:
    def __init__(self, space: Space, folder: Path, train: Train, watch: Watch) -> None:
        assert space.search is not None
        self.space, self.folder, self.train, self.watch = space, folder, train, watch
        self.config = space.search
        self.goals = Goals(self.config.objectives)
        self.ledger = Ledger(folder / RECORDS)
        self.state = State(self.config, self.goals, self.ledger)
        self.fruitless = 0
        self.crashes: list[Record] = []
        ask = sampler(self.config.sampler, self.config.seed, lambda: self.fruitless >= LOST)
        self.study = open_study(folder / JOURNAL, space.name, self.goals, ask)
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            self._count(trial.user_attrs[_OUTCOME])

    def run(self) -> str:
        """Work until there is nothing left to do, and say why."""
        baselines = claim_baselines(self.space, self.ledger)
        self.state.baselines = {record.identity for record, _ in baselines}
        publish(self.folder, self.state)
        self.watch("begin", self.state)
        for record, spec in baselines:
            if record.status == "running":
                self._work(record, spec)
        for trial in unfinished(self.study):
            self._answer(trial)
        while (reason := self._over()) is None:
            self._answer(self.study.ask())
        return reason

    def _over(self) -> str | None:
        done = len(self.state.done())
        if done >= self.config.trials:
            return f"all {done} trials are done"
        if self.config.time_limit is not None and self.state.spent() >= self.config.time_limit:
            return f"the time limit is reached after {done} of {self.config.trials} trials"
        if self.fruitless >= PATIENCE:
            if not self.ledger.trials():
                raise SearchError(self._hopeless())
            told = f"no new feasible spec in {PATIENCE} proposals in a row: the space seems exhausted"
            return f"{told} after {done} of {self.config.trials} trials"
        return None

    def _answer(self, trial: Trial) -> None:
        """Bring one question of the sampler to its end, wherever an earlier process left it."""
        found = candidate(self.space, partial(_suggest, trial))
        if found.verdict != "feasible":
            self._tell(trial, found.verdict, found, None)
            return
        assert found.spec is not None
        record = self.ledger.find(found.identity)
        if record is None:
            record = self.ledger.claim(found.identity, trial.number, found.params, found.costs)
        if record.status == "running":
            self._work(record, found.spec)
        own = record.asked == trial.number
        self._tell(trial, "feasible" if own else "repeat", found, record)

    def _work(self, record: Record, spec: Spec) -> None:
        """Train a spec from one milestone to the next, until it ends, is stopped or crashes."""
        assert spec.train is not None
        self.state.running, self.state.step = record, Step(record.tokens)
        self.watch("started", self.state)
        try:
            self._climb(record, spec, milestones(self.config.rungs, spec.train.tokens))
            self.crashes.clear()
        except Crash as crash:
            record.status, record.reason = "crashed", str(crash)
            if crash.__cause__ is not None:
                text = "".join(traceback.format_exception(crash.__cause__))
                (self.folder / record.folder).mkdir(parents=True, exist_ok=True)
                write_text(self.folder / record.folder / "error.txt", text)
            self.crashes.append(record)
        self.ledger.save(record)
        publish(self.folder, self.state)
        self.watch("ended", self.state)
        self.state.running = None
        if len(self.crashes) >= CRASHES:
            raise SearchError(_crashing(self.folder, self.crashes))

    def _climb(self, record: Record, spec: Spec, stops: list[int]) -> None:
        for i, tokens in enumerate(stops):
            end = i == len(stops) - 1
            if i >= len(record.seen):
                self._train(record, spec, tokens, end)
            if not end and record.kind == "trial" and not self._goes_on(record, i):
                record.status = "stopped"
                return
        record.status = "finished"

    def _train(self, record: Record, spec: Spec, tokens: int, end: bool) -> None:
        self.state.target = tokens
        began, before = time.monotonic(), record.seconds

        def report(step: Step) -> None:
            self.state.step = step
            record.seconds = before + time.monotonic() - began
            self.watch("progress", self.state)

        try:
            trained = self.train(spec, self.folder / record.folder, None if end else tokens, report)
            values = self.goals.measured(trained.metrics, record.costs)
        finally:
            record.seconds = before + time.monotonic() - began
        record.seen.append(Seen(trained.tokens, values, trained.metrics))
        self.ledger.save(record)
        self.watch("rung", self.state)

    def _goes_on(self, record: Record, rung: int) -> bool:
        own, *others = (
            self.goals.ascending(other.seen[rung].values)
            for other in [record, *(other for other in self.ledger if other is not record)]
            if len(other.seen) > rung
        )
        return goes_on(own, others, self.config.keep)

    def _tell(self, trial: Trial, outcome: str, found: Candidate, record: Record | None) -> None:
        """Tell the sampler, once; a trial without values of its own gets finite ones and a constraint."""
        constraints, values = dict(found.constraints), None
        if record is not None:
            constraints["crashed"] = float(record.status == "crashed")
            values = None if record.status == "crashed" else record.values
            told = {"run": record.folder, "status": record.status, "tokens": record.tokens}
            for name, fact in told.items():
                trial.set_user_attr(name, fact)
        if values is None:
            values = self.goals.worst(
                (other.values for other in self.ledger if other.values is not None), found.costs
            )
        already = trial.constraints
        for name, value in constraints.items():
            if name not in already:
                trial.set_constraint(name, value)
        trial.set_user_attr(_OUTCOME, outcome)
        self.study.tell(trial, values)
        self._count(outcome)
        self.watch("proposed", self.state)

    def _count(self, outcome: str) -> None:
        self.state.outcomes[outcome] += 1
        self.fruitless = 0 if outcome == "feasible" else self.fruitless + 1

    def _hopeless(self) -> str:
        """Say why no point of the space is feasible: the cap that most exceed, and the nearest miss."""
        trials = [trial for trial in self.study.get_trials(deepcopy=False) if trial.constraints]
        costed = [trial for trial in trials if INVALID not in trial.constraints]
        told = f"{self.space.name}: none of {len(trials)} candidates is feasible"
        if not costed:
            params = trials[0].params
            fault = candidate(self.space, lambda knob: params[knob.name]).why
            return f"{told}, for none is a valid spec; the first one: {fault}"
        exceeded = Counter(cap for trial in costed for cap in _violated(trial))
        cap, times = exceeded.most_common(1)[0]
        nearest = min(costed, key=lambda trial: max(trial.constraints.values()))
        missed = ", ".join(f"{cap} by {100 * value:.3g} %" for cap, value in _violated(nearest).items())
        answers = ", ".join(f"{name}={value}" for name, value in nearest.params.items())
        return (
            f"{told}; {len(costed)} are valid specs, and {times} of these are over caps.{cap}\n"
            f"the nearest miss exceeds {missed}: {answers}\n"
            f"raise caps.{cap}, or widen the space towards smaller models"
        )


def _violated(trial: FrozenTrial) -> dict[str, float]:
    return {name: value for name, value in trial.constraints.items() if value > 0}


def _suggest(trial: Trial, knob: Knob) -> Value:
    match knob.kind:
        case "categorical":
            answer: Value = trial.suggest_categorical(knob.name, knob.choices)
            return answer
        case "int":
            return trial.suggest_int(knob.name, int(knob.low), int(knob.high), step=knob.step, log=knob.log)
        case _:
            return trial.suggest_float(knob.name, knob.low, knob.high, log=knob.log)


def _refuse_seed_knob(space: Space) -> None:
    if any(knob.name == "train.seed" for knob in space.knobs):
        raise SearchError(
            "train.seed: expected one seed for all candidates, got a choice; specs that differ in the "
            "seed alone are the same to a search"
        )


def _crashing(folder: Path, crashes: list[Record]) -> str:
    reasons = "\n".join(f"  {folder / record.folder}: {record.reason}" for record in crashes)
    return (
        f"{len(crashes)} candidates in a row could not be trained:\n{reasons}\n"
        "if it is the machine, mend it; if it is the space, narrow it (a lower train.lr or more warmup "
        "against losses that are not finite, caps.train_memory against a lack of memory). "
        "The same command goes on with other candidates"
    )
