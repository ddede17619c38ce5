"""The data of a report, read from the folder of a search without changing it."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from composer.language.load import load
from composer.language.schema.search import SearchConfig
from composer.language.schema.spec import Spec
from composer.settings.errors import SpecError
from composer.training.folder.errors import TrainingError
from composer.training.folder.metrics import HELD_OUT, read_metrics
from composer.training.folder.run_folder import METRICS, SPEC
from search.compare.finals import Standing
from search.errors import SearchError
from search.objectives import Goals
from search.progress.leaderboard import ASKED
from search.progress.state import State
from search.progress.verdict import Verdicts
from search.propose.draft_counts import DRAWN, Drawn, total
from search.propose.optuna_adapter import IMPORTED, OUTCOME
from search.report.shown import shown
from search.report.stats import Effects
from search.store.folder import JOURNAL, JOURNAL_COPY, RECORDS, SPACE
from search.store.ledger import Ledger, Record

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

_JUDGED = ("objectives", "rungs", "keep", "sampler")
"""The fields of `search:` that a report reads from the space file of a folder."""

_IDENTITY = re.compile(r"-[0-9a-f]{12}$")
"""The suffix that a default folder adds to the name of its space."""

Row = dict[str, float]


@dataclass(frozen=True)
class Proposal:
    """The outcome of a proposal.

    Attributes:
        outcome: feasible, over, invalid or repeat.
        over: the caps that it exceeds.
        drawn: the drafts of the sampler that led to it.
    """

    outcome: str
    over: tuple[str, ...]
    drawn: Drawn


@dataclass(frozen=True)
class Source:
    """A search as read from its folder.

    Attributes:
        name: of the space.
        proposals: those completed so far, in order; None if no journal can be read.
        caps: the hard limits on candidates.
        specs: of what is shown, by identity, the text of the spec and the spec; those not yet begun are
            missing.
        curves: of what is shown, by identity, the rows of the run's metrics.
        asked: whether the requested budgets and finals are known.
        shown: the baselines and trials that figures and tables show; conclusions rest on all.
        effects: by objective, the estimated effects of the parameters.
    """

    folder: Path
    name: str
    state: State
    proposals: list[Proposal] | None
    caps: dict[str, float]
    specs: dict[str, tuple[str, Spec]]
    curves: dict[str, list[Row]]
    asked: bool
    shown: list[Record]
    effects: dict[str, Effects | None] = field(default_factory=dict)

    def records(self) -> list[Record]:
        """Return baselines, then trials."""
        return list(self.state.ledger)

    @property
    def all_shown(self) -> bool:
        """Whether the page shows all baselines and trials."""
        return len(self.shown) == len(self.records())

    @cached_property
    def front(self) -> list[Record]:
        """The Pareto front of all records trained in full."""
        return self.state.front()

    @cached_property
    def trials_front(self) -> list[Record]:
        """The Pareto front among trials alone."""
        return self.state.front("trial")

    @cached_property
    def verdicts(self) -> Verdicts:
        """The winner, the best baseline, and their comparison."""
        return Verdicts(self.state)

    @property
    def winner(self) -> Record | None:
        """The winner, if a trial was trained in full."""
        return self.verdicts.winner

    @cached_property
    def knee(self) -> Record | None:
        """The knee of the front, if it has one."""
        return self.state.knee()

    @cached_property
    def standings(self) -> list[Standing]:
        """The results of retrained finalists and baselines, best first."""
        goals = self.state.goals
        own = list(self.verdicts.standings.values())
        means = [(goals.ascending(at.mean)[goals.first_measured], -i) for i, at in enumerate(own) if at.mean]
        return [own[-i] for _, i in sorted(means, reverse=True)] + [at for at in own if not at.mean]

    @cached_property
    def best(self) -> frozenset[str]:
        """The identities of the front."""
        return frozenset(record.identity for record in self.front)

    @property
    def seed(self) -> int | None:
        """The seed that all runs of the search share, if there is one."""
        own = (self.specs[each.identity][1] for each in self.state.ledger if each.identity in self.specs)
        seeds = {spec.train.seed for spec in own if spec.train is not None}
        return seeds.pop() if len(seeds) == 1 else None


def read(folder: Path, seen: State | None = None) -> Source:
    """Read the folder of a search, finished or not.

    Args:
        folder: the search folder.
        seen: the search as a worker saw it, whose counts are used if the folder has no journal.

    Raises:
        SearchError: it is no search folder, or its settings cannot be read.
    """
    judged = _judged(folder)
    ledger = Ledger(folder / RECORDS)
    asked = _asked(folder, judged) if seen is None else seen.config
    config = asked or SearchConfig.model_validate({"trials": 1, **_begun(ledger), **judged})
    state = State(config, Goals(config.objectives), ledger)
    state.baselines = {record.identity for record in ledger if record.role == "baseline"}
    of_page = shown(state)
    loaded = [*of_page, *ledger.finals()]
    specs = {record.identity: spec for record in loaded if (spec := _spec(folder, record))}
    journals = (folder / JOURNAL, folder / JOURNAL_COPY)
    proposals = next((known for path in journals if (known := _proposals(path)) is not None), None)
    if proposals is not None:
        state.outcomes = Counter(proposal.outcome for proposal in proposals)
        state.drawn = total({DRAWN: vars(proposal.drawn)} for proposal in proposals)
    elif seen is not None:
        state.outcomes, state.drawn = seen.outcomes, seen.drawn
    trials = [record for record in state.ledger if record.kind == "trial" and record.identity in specs]
    example = specs[trials[0].identity][1] if trials else None
    return Source(
        folder,
        example.name if example else _IDENTITY.sub("", folder.resolve().name),
        state,
        proposals,
        dict(example.caps.limits()) if example else {},
        specs,
        {record.identity: _curve(folder, record) for record in loaded},
        asked is not None,
        of_page,
    )


_OWN = ("invalid", "crashed")
"""Constraints that are not caps."""


def _judged(folder: Path) -> dict[str, Any]:
    """Read the settings by which trials are judged.

    Raises:
        SearchError: it is no search folder, or they cannot be read.
    """
    path = folder / SPACE
    if not path.is_file() or not (folder / RECORDS).is_dir():
        raise SearchError(
            f"{folder}: expected the folder of a search, but there is no {SPACE} with {RECORDS}/ in it; "
            "`composer search` prints the folder it works in"
        )
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        texts = dict(line.split(": ", 1) for line in lines)
        plain = _nested({key: json.loads(text) for key, text in texts.items() if key.startswith("search.")})
        judged = {name: plain["search"][name] for name in _JUDGED if name in plain["search"]}
        SearchConfig.model_validate({"trials": 1, **judged})
        return judged
    except (OSError, ValueError, KeyError, ValidationError) as error:
        raise SearchError(
            f"{path}: expected the space of a search, but it cannot be read ({error})"
        ) from None


def _asked(folder: Path, judged: Mapping[str, Any]) -> SearchConfig | None:
    """Read the search's last settings; None if there are none, as in older searches."""
    try:
        asked = json.loads((folder / ASKED).read_text(encoding="utf-8"))
        return SearchConfig.model_validate({**asked, **judged})
    except (OSError, ValueError, TypeError):
        return None


def _begun(ledger: Ledger) -> dict[str, Any]:
    """Infer the requested finals from the records: the most seeds of any, and all learning rates."""
    again = [record.again for record in ledger.finals()]
    rates = sorted({each["lr"] for each in again if not each["seed"]})
    return {"seeds": max((each["seed"] for each in again), default=0), "lr_sweep": rates}


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Undo dotted keys; mappings with numbers as keys become lists."""
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *path, last = key.split(".")
        inner = nested
        for step in path:
            inner = inner.setdefault(step, {})
        inner[last] = value

    def lists(value: Any) -> Any:
        if not isinstance(value, dict) or not value:
            return value
        inside = {key: lists(item) for key, item in value.items()}
        return list(inside.values()) if all(map(str.isdecimal, inside)) else inside

    tree = lists(nested)
    assert isinstance(tree, dict)
    return tree


def _spec(folder: Path, record: Record) -> tuple[str, Spec] | None:
    path = folder / record.folder / SPEC
    try:
        return path.read_text(encoding="utf-8"), load(path)
    except (OSError, UnicodeDecodeError, SpecError):
        return None


def _curve(folder: Path, record: Record) -> list[Row]:
    try:
        rows = read_metrics(folder / record.folder / METRICS)
    except (OSError, TrainingError):
        return []
    # metrics have the names of objectives; only `train_loss` is not held out
    return [{name.removeprefix(HELD_OUT): value for name, value in row.items()} for row in rows]


def _proposals(path: Path) -> list[Proposal] | None:
    """Read the outcome of each completed trial from Optuna's journal."""
    if not path.is_file():
        return None
    from optuna import load_study
    from optuna.storages import JournalStorage
    from optuna.storages.journal import BaseJournalBackend
    from optuna.study import get_all_study_names
    from optuna.trial import TrialState

    class Reading(BaseJournalBackend):
        """A journal up to its last whole record, read-only."""

        def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
            lines = path.read_bytes().split(b"\n")[:-1]
            return [json.loads(line) for line in lines[log_number_from:]]

        def append_logs(self, logs: list[dict[str, Any]]) -> None:
            raise PermissionError(f"{path} is only read")

    try:
        storage = JournalStorage(Reading())
        names = get_all_study_names(storage)
        trials = load_study(study_name=names[0], storage=storage).get_trials(deepcopy=False) if names else []
    except Exception:
        # an unreadable journal costs the report its history of proposals, but no trial
        return None
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    return [_proposal(trial) for trial in complete if trial.user_attrs.get(OUTCOME) != IMPORTED]


def _proposal(trial: FrozenTrial) -> Proposal:
    outcome = str(trial.user_attrs.get(OUTCOME, "feasible"))
    over = (name for name, value in trial.constraints.items() if value > 0 and name not in _OWN)
    # searches of older versions, which did not count drafts, made one per proposal
    one = Drawn(
        1, 1, int(outcome in ("over", "invalid")), int(outcome == "repeat"), int(outcome == "feasible")
    )
    drawn = trial.user_attrs.get(DRAWN)
    return Proposal(outcome, tuple(over), one if drawn is None else Drawn(**drawn))
