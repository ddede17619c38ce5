"""What a report says of searches that lack something: baselines, finals, results, a winner that led."""

from __future__ import annotations

import re
from datetime import datetime

import pytest
from fake_training import AGAIN, TWO, FakeTraining, Luck, toy
from pages import Checked

from search.errors import Crash, SearchError
from search.progress.table import summary
from search.report import lineage, shown
from search.report.page import page
from search.report.read import read
from search.run.study import run_search

RANDOM = ("search.sampler=random", "search.trials=10", TWO)


@pytest.mark.parametrize("finals", [(), AGAIN], ids=["search", "finals"])
def test_without_baselines_none_are_mentioned(tmp_path, finals):
    ended = run_search(toy(tmp_path, *RANDOM, *finals), tmp_path / "run", Luck())
    text = page(read(tmp_path / "run"), datetime(2026, 1, 1))
    text_words = Checked(text[: text.index('<script type="application/json"')].split("</style>")[1]).words
    text_words += summary(tmp_path / "run", ended.state, "done")
    # the folder is named after this test
    assert "baseline" not in " ".join(text_words).lower().replace(str(tmp_path).lower(), "")


def test_of_a_large_search_the_page_shows_the_front_and_the_best_and_says_so(tmp_path, monkeypatch):
    run_search(toy(tmp_path, *RANDOM), tmp_path / "run", FakeTraining())
    monkeypatch.setattr(shown, "MOST", 4)
    source = read(tmp_path / "run")
    assert len(source.shown) < 10
    assert {record.key for record in source.front} < {record.key for record in source.shown}
    text = page(source, datetime(2026, 1, 1))
    assert f"show {len(source.shown)} of 10 runs" in text
    linked = set(re.findall(r'href="#(trial-\d+)"', text))
    assert linked
    assert linked <= {record.key for record in source.shown}


def test_baselines_that_crashed_are_said_to_be_missing(tmp_path):
    def fault(spec, tokens):
        if spec.name == "rival":
            raise Crash("the loss is nan")

    ended = run_search(toy(tmp_path, *RANDOM, baseline="rival.yaml"), tmp_path / "run", FakeTraining(fault))
    assert "no baseline was trained in full" in page(read(tmp_path / "run"), datetime(2026, 1, 1))
    assert "no baseline was trained in full" in "\n".join(summary(tmp_path / "run", ended.state, "done"))


def test_where_nothing_was_measured_no_empty_chart_is_drawn(tmp_path):
    def fault(spec, tokens):
        raise Crash("the loss is nan")

    with pytest.raises(SearchError):
        run_search(toy(tmp_path, *RANDOM), tmp_path / "run", FakeTraining(fault))
    text = page(read(tmp_path / "run"), datetime(2026, 1, 1))
    assert "Nothing was measured yet." in text
    assert "Too few runs reached two milestones" in text
    assert "3 crashed" in text
    for section in ("front", "rungs"):
        assert 'class="figure"' not in text.split(f'<section id="{section}"')[1].split("</section>")[0]


def test_the_name_of_a_search_without_trials_is_that_of_its_folder(tmp_path):
    class Stop(Exception):
        pass

    def stop(spec, tokens):
        raise Stop

    run = tmp_path / "toy-0123456789ab"
    with pytest.raises(Stop):
        run_search(toy(tmp_path, baseline="rival.yaml"), run, FakeTraining(stop))
    assert read(run).name == "toy"


def test_one_trial_is_counted_in_the_singular(tmp_path):
    ended = run_search(toy(tmp_path, "search.trials=1"), tmp_path / "run", FakeTraining())
    assert ended.reason == "the only trial is done"
    assert "1 trial: 1 trained in full" in "\n".join(summary(tmp_path / "run", ended.state, ended.reason))


def test_the_lineage_ends_with_the_winner_also_where_another_led(tmp_path):
    ended = run_search(toy(tmp_path, *RANDOM, *AGAIN, "search.finalists=3"), tmp_path / "run", Luck())
    at = ended.state.finals().standings()[0]
    for run in at.runs:
        run.seen[-1].values = (run.seen[-1].values[0] - 2, *run.seen[-1].values[1:])
    winner = ended.state.winner()
    assert winner is not at.base
    assert [step.record for step in lineage.steps(ended.state, winner)][-1] is winner
