"""What a search shows on the terminal, of itself and of other workers."""

from __future__ import annotations

from datetime import datetime

import pytest
from fake_training import FakeTraining, toy
from rich.console import Console

from search.report.read import read
from search.study import run_search
from search.table import _progress, counts, picture


@pytest.fixture
def state(tmp_path):
    run_search(toy(tmp_path, "search.trials=5"), tmp_path / "run", FakeTraining())
    return read(tmp_path / "run").state


def shown(state) -> str:
    console = Console(width=140, record=True, file=None, quiet=True)
    with console.capture() as text:
        console.quiet = False
        console.print(picture(state))
    return text.get()


def test_runs_of_other_workers_are_shown(state):
    other = state.ledger.trials()[-1]
    other.status = "running"
    assert f"trial {other.name} with another worker: " in shown(state)
    assert "tokens at its last rung" in shown(state)
    state.running = other
    assert "with another worker" not in shown(state)


def test_the_end_is_foretold_by_the_clock_sooner_with_more_workers(state):
    noon = datetime(2026, 1, 2, 12, 0)
    for record in state.ledger:
        record.seconds = 600
    state.config = state.config.model_copy(update={"trials": 11})
    # six trials left at ten minutes
    assert _progress(state, noon) == "5 of 11 trials, about 60min left, until 13:00"
    state.ledger.trials()[0].status = "running"
    # now seven are left, for two
    assert _progress(state, noon) == "4 of 11 trials, about 35min left, until 12:35"
    state.config = state.config.model_copy(update={"time_limit": 5000.0})
    assert "10min of 83min by the clock" in _progress(state, noon)


def test_counts_tell_what_was_costed_for_the_trials(state):
    told = counts(state)
    assert told.startswith("5 trials: ")
    assert f"{state.drawn.costed} candidates costed, {100 * state.drawn.share:.0f} % refused" in told
