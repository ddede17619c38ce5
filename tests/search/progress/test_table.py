"""What a search shows on the terminal, of itself and of other workers."""

from __future__ import annotations

from datetime import datetime

import pytest
from fake_training import AGAIN, TWO, FakeTraining, Luck, toy
from rich.console import Console

from search.progress.state import Activity
from search.progress.table import _progress, counts, picture, results, summary
from search.progress.words import short
from search.report.read import read
from search.run.study import run_search
from search.trainer import Step


@pytest.fixture
def state(tmp_path):
    run_search(toy(tmp_path, "search.trials=5"), tmp_path / "run", FakeTraining())
    return read(tmp_path / "run").state


@pytest.fixture
def with_finals(tmp_path):
    space = toy(tmp_path, TWO, *AGAIN, baseline="rival.yaml")
    return run_search(space, tmp_path / "run", Luck()).state


def shown(state, draw=picture) -> str:
    console = Console(width=140, record=True, file=None, quiet=True)
    with console.capture() as text:
        console.quiet = False
        console.print(draw(state))
    return text.get()


def change(state, record, **fields):
    """Change a record as a search does."""
    for name, value in fields.items():
        setattr(record, name, value)
    state.ledger.digest.update(record)


def test_runs_of_other_workers_are_shown(state):
    other = state.ledger.trials()[-1]
    change(state, other, status="running")
    assert f"trial {other.name} with another worker: " in shown(state)
    assert "tokens at its last rung" in shown(state)
    state.running = other
    assert "with another worker" not in shown(state)


@pytest.mark.parametrize("width", [80, 140])
def test_each_local_worker_has_a_row_and_narrow_terminals_keep_the_figures(state, width):
    record = state.ledger.trials()[-1]
    change(state, record, status="running")
    state.local = {
        1: Activity(record, Step(1500, 0.25), 2048),
        2: Activity(note="waiting for 1 other worker"),
        3: Activity(record),
    }
    state.note = "worker 4 failed: killed by SIGKILL; 3 others go on, and this note is folded at the end"
    console = Console(width=width, soft_wrap=True)
    with console.capture() as text:
        console.print(picture(state, 10, width))
    lines = text.get().splitlines()
    rows = [line.split() for line in lines if line.split()[:1] in (["1"], ["2"], ["3"])]
    assert rows[0][:8] == ["1", "trial", record.name, "1.5k", "of", "2.05k", "0.250", str(len(record.seen))]
    assert rows[1][:2] == ["2", "waiting"]
    assert rows[2][:4] == ["3", "trial", record.name, "starting"]
    assert "with another worker" not in text.get()
    assert all(len(line) <= width for line in lines)
    assert "this note is folded at the end" in " ".join(text.get().split())
    assert any(line.split()[:5] == ["trial", "status", "tokens", "accuracy", "params"] for line in lines)


@pytest.mark.parametrize("width", [60, 80, 140])
def test_every_width_shows_which_trial_a_row_is(with_finals, width):
    console = Console(width=width)
    with console.capture() as text:
        console.print(results(with_finals, 10, width))
    board = text.get().partition("trained again")[0]
    assert all(f"* {record.name} " in board for record in with_finals.front() if record.role == "trial")


def test_the_end_is_foretold_by_the_clock_sooner_with_more_workers(state):
    noon = datetime(2026, 1, 2, 12, 0)
    for number, record in enumerate(state.ledger):
        change(state, record, seconds=600, spans=[(600.0 * number, 600.0 * number + 600)])
    state.config = state.config.model_copy(update={"trials": 11})
    # six trials left at ten minutes
    assert _progress(state, noon) == "5 of 11 trials, about 60min left, until 13:00"
    change(state, state.ledger.trials()[0], status="running")
    # now seven are left, for two
    assert _progress(state, noon) == "4 of 11 trials, about 35min left, until 12:35"
    state.config = state.config.model_copy(update={"time_limit": 5000.0})
    assert "50min of 83min by the clock" in _progress(state, noon)


def test_counts_tell_what_was_costed_for_the_trials(state):
    text = counts(state)
    assert text.startswith("5 trials: ")
    assert f"{state.drawn.costed} candidates costed, {100 * state.drawn.share:.0f} % refused" in text


def test_a_final_in_progress_is_called_by_what_it_trains_again(with_finals):
    record = next(
        each
        for each in with_finals.ledger.finals()
        if each.again == {"of": "baseline-rival", "lr": 2, "seed": 3}
    )
    change(with_finals, record, status="running")
    with_finals.running, with_finals.target = record, 8192
    text = shown(with_finals)
    assert text.startswith("baseline rival again, lr x2, seed +3: 8.19k of 8.19k tokens, train loss 0.500\n")
    assert "6 of 6 trials, 14 of 15 finals" in text


def test_finals_stand_below_the_trials_with_mean_and_spread(with_finals):
    text = shown(with_finals, lambda state: results(state, 20))
    rows = [line.split() for line in text.splitlines() if "±" in line]
    winner, standings = with_finals.winner(), with_finals.finals().standings()
    assert len(rows) == 3
    for row, at in zip(rows, standings, strict=True):
        name = {"baseline": ["baseline", "rival"], "trial": ["*", at.base.name]}[at.base.kind]
        name = name if at.base is winner or at.base.kind == "baseline" else name[1:]
        mean, spread = f"{at.mean[0]:.2f}", f"{at.spread[0]:.2f}"
        assert row[: len(name) + 5] == [*name, "x2", "3", mean, "±", spread]


def test_the_summary_compares_means_and_tells_the_p_value_and_the_rule(with_finals, tmp_path):
    message = "\n".join(summary(tmp_path / "run", with_finals, "done"))
    assert "over 3 fresh seeds at lr x2" in message
    assert "permutation test: p = " in message
    assert "chosen by: " in message
    assert "one standard error" in message
    assert "one seed each" not in message
    assert f"finals: {tmp_path / 'run' / 'finals.csv'}" in message


def test_a_parameter_inside_an_alternative_is_called_by_that():
    names = ["stages.1", "stages.1[mix].recur", "stages.0.step[side].0.combine", "blocks.seq.heads", "let"]
    assert [short(name) for name in names] == ["stages", "mix.recur", "combine", "seq.heads", "let"]
