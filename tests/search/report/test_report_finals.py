"""The report of finals, budgets, several objectives and rungs in FLOPs."""

from __future__ import annotations

import re
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path
from statistics import fmean, stdev

import pytest
from fake_training import AGAIN, TWO, FakeTraining, Luck, toy
from pages import NOW, Checked, points

from composer.costs.base.units import count_text
from search.progress.leaderboard import ranked
from search.report import facts, figures
from search.report.page import page
from search.report.read import read
from search.report.write import write_report
from search.run.study import run_search


@pytest.fixture(scope="module")
def with_finals(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("finals")
    space = toy(root, TWO, *AGAIN, "search.tokens=10M", "search.trials=9", baseline="rival.yaml")
    run_search(space, root / "run", Luck())
    return root / "run"


def test_finals_are_shown_with_every_seed_the_means_and_the_verdict(with_finals):
    source = read(with_finals)
    text = page(source, NOW)
    checked = Checked(text)
    assert checked.wrong == checked.open == []
    words = " ".join(" ".join(checked.words).split())
    winner, rival = source.verdicts.final()[0].one, source.verdicts.final()[0].other
    mean = f"{fmean(winner.seeds):.2f} ± {stdev(winner.seeds):.2f}"
    assert f"accuracy {mean}" in words.replace("\xa0", " ")
    assert f"with {mean} over 3 fresh seeds at lr x2, is {source.verdicts.final()[0].size} than" in words
    assert "permutation test: p = 0.10" in words
    assert "one seed each, so" not in words.lower()
    assert len(winner.seeds) == len(rival.seeds) == 3
    section = text[text.index('<section id="finals"') : text.index('<section id="curves"')]
    for run in source.state.ledger.finals():
        # the sweep is a line of each, every fresh seed is a point of its own
        assert (f'href="#{run.key}"' in section) == bool(run.again["seed"])
    # drawn for a desktop and for a phone
    assert section.count('class="chosen-rate"') == 2 * len(source.standings) == 6
    assert points(text).keys() == {record.key for record in source.state.ledger.every()}
    assert len(points(text)) == 9 + 1 + 15


def test_finals_and_budgets_are_known_from_the_folder_as_they_were_asked_for(with_finals):
    source = read(with_finals)
    assert source.asked
    assert (source.state.config.seeds, source.state.config.lr_sweep) == (3, (0.5, 2.0))
    spent = sum(record.tokens for record in source.state.ledger.every())
    assert [account.spent for account in source.state.accounts()] == [spent]
    assert f"{count_text(spent)} of 10M tokens" in page(source, NOW)


def test_without_what_was_asked_for_finals_are_told_from_the_records(with_finals, tmp_path):
    shutil.copytree(with_finals, tmp_path / "run")
    (tmp_path / "run" / "asked.json").unlink()
    (tmp_path / "run" / "records" / "final-rival-lr2-seed3.json").unlink()
    source = read(tmp_path / "run")
    assert not source.asked
    left = {at.base.name: at.left for at in source.standings}
    assert left.pop("rival") == 1
    assert set(left.values()) == {0}
    assert "10M tokens" not in page(source, NOW)


def test_finals_have_figures_of_their_own(with_finals, tmp_path):
    shutil.copytree(with_finals, tmp_path / "run")
    write_report(tmp_path / "run")
    drawn = {path.stem: path.read_text() for path in (tmp_path / "run" / "figures").iterdir()}
    assert drawn.keys() == {"front", "finals", "sweep", "curves", "importance", "effects", "rungs"}
    for text in drawn.values():
        assert not re.search(r"var\(|<a |<script|href", text)
        ET.fromstring(text)
    assert drawn["finals"].count('class="dot seed') == 9
    # mean and spread of those trained again, a line up and one across
    assert drawn["front"].count('class="whisker"') == 2 * 3


def test_a_search_for_four_things_is_reported_in_each(tmp_path):
    goals = "{maximize: accuracy}, {minimize: loss}, {minimize: params}, {minimize: flops_per_token}"
    more = ["search.trials=10", "search.seeds=3", "search.finalists=2", "search.sampler=random"]
    run_search(
        toy(tmp_path, f"search.objectives=[{goals}]", *more, baseline="rival.yaml"), tmp_path / "run", Luck()
    )
    source = read(tmp_path / "run")
    text = page(source, NOW)
    assert Checked(text).wrong == []
    assert facts.axes(source)[:3] == ["loss", "params", "flops_per_token"]
    # in no plane of two is that front a line
    assert not any("stairs" in figures.front(source, name).svg() for name in facts.axes(source))
    for name in ("accuracy", "loss"):
        assert f"In {name} the winner" in text
        assert f'data-name="{name}"' in text[text.index('<section id="finals"') :]
    parameters = text[text.index('<section id="parameters"') : text.index('<section id="rungs"')]
    for name in ("accuracy", "loss", "params", "flops_per_token"):
        assert f'data-name="{name}"' in parameters


def test_rungs_in_flops_are_called_so_and_curves_are_drawn_over_flops(tmp_path):
    space = toy(tmp_path, TWO, "search.rungs={flops: [1G, 2G]}", "search.trials=8", baseline="rival.yaml")
    run_search(space, tmp_path / "run", FakeTraining())
    source = read(tmp_path / "run")
    assert facts.stages(source) == ["1G FLOPs", "2G FLOPs", "the end"]
    text = page(source, NOW)
    assert "rungs at 1G FLOPs, 2G FLOPs at which" in text
    chart = figures.curves(source, "accuracy")
    assert chart.title == "held-out accuracy over training FLOPs"
    for record in source.state.ledger.trials():
        ends = [x for x, _ in facts.curve(source, record, "accuracy")]
        assert ends[-1] == pytest.approx(record.costs["train_flops"] * record.seen[-1].tokens / record.whole)
        if record.status == "stopped":
            assert ends[-1] >= 1e9
    # a cheap one that was trained in full passed fewer rungs, and is ranked with the others
    order = [record.status for record in ranked(source.state)]
    assert order == sorted(order, key=["finished", "stopped"].index)
    full = [record.values[0] for record in ranked(source.state) if record.identity in source.best]
    assert full == sorted(full, reverse=True)
    cheap = sum(
        record.status == "finished" and record.costs["train_flops"] <= 1e9
        for record in source.state.ledger.trials()
    )
    assert f"of {8 - cheap} went on" in facts.passed(source, 0)


def test_what_was_changed_to_match_a_baseline_is_told(tmp_path):
    space = toy(tmp_path, "search.trials=2", baseline="{spec: rival.yaml, match: [params]}")
    run_search(space, tmp_path / "run", FakeTraining())
    source = read(tmp_path / "run")
    (record,) = [each for each in source.records() if each.kind == "baseline"]
    text = page(source, NOW)
    words = " ".join(Checked(text).words)
    assert record.origin["moves"]
    for move in record.origin["moves"]:
        assert move in words[words.index("Baselines and what they cost") :]
    assert points(text)[record.key]["moves"] == record.origin["moves"]
