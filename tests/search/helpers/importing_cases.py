"""Searches to import from and into, for the tests of `--import`."""

from __future__ import annotations

import json
from pathlib import Path

import optuna
from fake_training import FakeTraining, toy

from search.run.importing import bring_in, read_old
from search.run.study import run_search

optuna.logging.set_verbosity(optuna.logging.WARNING)
MORE = "model.width={choice: [16, 24, 32, 64]}"


def old_search(root: Path, *overrides: str, fault=lambda spec, tokens: None, baseline: str = "") -> Path:
    """A search of six trials, some of them stopped, in ROOT/old."""
    run_search(toy(root, *overrides, baseline=baseline), root / "old", FakeTraining(fault))
    return root / "old"


def imported(root: Path, *overrides: str, baseline: str = "", storage: str | None = None) -> str:
    """Import ROOT/old into the search of another space in ROOT/new; what is told, the folder left out."""
    space, new = toy(root, *overrides, baseline=baseline), root / "new"
    (tally,) = bring_in(space, new, [read_old(root / "old", new)], storage)
    return str(tally).replace(f" of {root / 'old'}", "")


def records(folder: Path) -> dict[str, dict]:
    """The records of a search by identity."""
    results = [json.loads(path.read_text()) for path in sorted((folder / "records").glob("*.json"))]
    return {record["identity"]: record for record in results}


def trials(folder: Path) -> list[optuna.trial.FrozenTrial]:
    backend = optuna.storages.journal.JournalFileBackend(str(folder / "study.journal"))
    storage = optuna.storages.JournalStorage(backend)
    return optuna.load_study(study_name="toy", storage=storage).get_trials()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
