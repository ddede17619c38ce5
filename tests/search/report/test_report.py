"""The report: read from a folder at any time, changing nothing in it, and telling what stands there."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from fake_training import TWO, FakeTraining, toy
from pages import NOW, Checked, points

from composer.cli.main import main
from composer.language.load import load
from composer.page.chart import WIDE
from search.errors import Crash
from search.report import evidence, facts, figures, lineage
from search.report.page import page
from search.report.read import Source, read
from search.report.stats import agreement
from search.report.write import write_report
from search.run.study import run_search


def some_crash(spec, tokens):
    if spec.model.width == 64 and tokens > 2048:
        raise Crash("the loss is <nan> at 4096 tokens")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("search")
    space = toy(root, TWO, "search.trials=14", "search.sampler=random", baseline="rival.yaml")
    run_search(space, root / "run", FakeTraining(some_crash))
    return root / "run"


@pytest.fixture(scope="module")
def source(folder) -> Source:
    return read(folder)


def test_the_page_is_whole_and_asks_for_nothing(source):
    text = page(source, NOW)
    checked = Checked(text)
    assert checked.wrong == checked.open == []
    assert len(checked.ids) == len(set(checked.ids))
    assert all(address.startswith(("#", "data:")) for address in checked.addresses)
    assert "default-src 'none'" in text
    # a name, which nothing fetches
    assert set(re.findall(r"https?://[\w./]+", text)) == {"http://www.w3.org/2000/svg"}
    known = set(checked.ids) | points(text).keys()
    assert {link[1:] for link in checked.links} <= known


def test_every_record_is_a_point_with_its_spec_costs_and_command(folder, source):
    result = points(page(source, NOW))
    assert len(result) == 15
    for record in source.records():
        point = result[f"{record.kind}-{record.name}"]
        assert point["yaml"] == (folder / record.folder / "spec.yaml").read_text()
        assert {name: value for name, value, _ in point["parameters"]}.keys() <= {
            name.split(".", 1)[-1] for name in record.params
        } | {"recur", "step", "model.width"}
        assert [name for name, *_ in point["costs"]] == list(record.costs)
        limits = {name: share for name, *_, share in point["costs"] if share is not None}
        assert limits.keys() == {"params", "flops_per_token"}
        assert all(0 < share <= 1 for share in limits.values())
        tokens = 4 * 8192
        going_on = f"composer train {folder / record.folder}/spec.yaml --set train.tokens={tokens}"
        stopped = f"mkdir -p runs && cp -r {folder / record.folder} runs/run-{record.name} && composer train "
        assert point["command"].startswith(stopped if record.status == "stopped" else going_on)
    for record in source.state.front():
        assert result[f"{record.kind}-{record.name}"]["drawing"].startswith("<svg")


def test_the_head_tells_the_winner_the_difference_and_its_doubt(source):
    words = " ".join(Checked(page(source, NOW)).words)
    winner, rival = source.state.winner(), source.state.front("baseline")[0]
    assert f"accuracy {winner.values[0]:.4g}" in words
    word = "better" if winner.values[0] > rival.values[0] else "worse"
    assert f"{abs(winner.values[0] - rival.values[0]):.4g} {word}" in words
    assert "One seed each, so no p-value" in words


def test_what_a_run_says_is_text_and_never_markup(source):
    crashed = [record for record in source.records() if record.status == "crashed"]
    assert crashed
    text = page(source, NOW)
    assert "the loss is &lt;nan&gt; at 4096 tokens" in text
    assert "<nan>" not in text
    assert points(text)[f"trial-{crashed[0].name}"]["reason"] == crashed[0].reason


def test_proposals_are_read_from_the_journal_with_what_the_sampler_drafted(folder, source):
    assert source.proposals is not None
    outcomes = [proposal.outcome for proposal in source.proposals]
    assert outcomes.count("feasible") == 14
    drawn = source.state.drawn
    assert drawn.costed >= drawn.own >= drawn.infeasible > 0
    words = " ".join(Checked(page(source, NOW)).words)
    assert f"Candidates costed: {drawn.costed}, {drawn.costed / 14:.1f} for each trial trained" in words
    assert f"{100 * drawn.infeasible / drawn.own:.0f} % were over a cap or invalid" in words
    shown = figures.history(source.proposals).svg()
    assert shown.count('class="feasible-tick"') == 14


def test_a_proposal_from_before_drafts_were_counted_is_a_draft(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "run")
    path = tmp_path / "run" / "study.journal"
    path.write_text("".join(f"{line}\n" for line in path.read_text().splitlines() if '"drawn"' not in line))
    source = read(tmp_path / "run")
    assert source.state.drawn.costed == source.state.drawn.own == len(source.proposals)


def test_without_a_journal_the_counts_of_a_worker_stand_in(folder, tmp_path, source):
    shutil.copytree(folder, tmp_path / "run")
    (tmp_path / "run" / "study.journal").unlink()
    result = read(tmp_path / "run", source.state)
    assert result.proposals is None
    assert f"Candidates costed: {source.state.drawn.costed}" in page(result, NOW)


def everything(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_report_elsewhere_leaves_the_folder_as_it_is_even_with_a_torn_journal(folder, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    with (copy / "study.journal").open("ab") as file:
        file.write(b'{"op_code": 5, "wor')
    before = everything(copy)
    assert main(["report", str(copy), "--out", str(tmp_path / "it.html")]) == 0
    assert everything(copy) == before
    assert (tmp_path / "it.html").read_text().startswith("<!doctype html>")
    assert "it.html" in capsys.readouterr().out


def test_the_folder_gets_a_page_and_figures_that_stand_alone(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "run")
    assert write_report(tmp_path / "run") == tmp_path / "run" / "report.html"
    drawn = {path.stem for path in (tmp_path / "run" / "figures").iterdir()}
    assert drawn == {"front", "curves", "importance", "effects", "rungs"}
    for path in (tmp_path / "run" / "figures").iterdir():
        text = path.read_text()
        root = ET.fromstring(text)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        # no variable, link or script, which programs that print would not know
        assert not re.search(r"var\(|<a |<script|href", text)


def test_a_search_that_has_not_finished_is_reported_with_what_there_is(tmp_path):
    class Stop(Exception):
        pass

    def stop(spec, tokens):
        if len(list(tmp_path.glob("run/records/*"))) > 3 and tokens > 2048:
            raise Stop

    with pytest.raises(Stop):
        run_search(toy(tmp_path, TWO, baseline="rival.yaml"), tmp_path / "run", FakeTraining(stop))
    text = page(read(tmp_path / "run"), NOW)
    assert "still running" in text
    assert "no conclusions about single parameters" in text


def test_an_empty_search_is_reported_too(tmp_path):
    class Stop(Exception):
        pass

    def stop(spec, tokens):
        raise Stop

    with pytest.raises(Stop):
        run_search(toy(tmp_path), tmp_path / "run", FakeTraining(stop))
    text = page(read(tmp_path / "run"), NOW)
    assert "no trial was trained in full" in text
    assert Checked(text).wrong == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda run: shutil.rmtree(run), "expected the folder of a search"),
        (lambda run: (run / "space.txt").unlink(), "expected the folder of a search"),
        (
            lambda run: (run / "space.txt").write_text("search.objectives: {"),
            "expected the space of a search",
        ),
        (lambda run: (run / "records" / "trial-0.json").write_text("{"), "expected the record of a trial"),
    ],
)
def test_what_cannot_be_read_is_told(folder, tmp_path, capsys, change, message):
    shutil.copytree(folder, tmp_path / "run")
    change(tmp_path / "run")
    assert main(["report", str(tmp_path / "run")]) == 1
    assert message in capsys.readouterr().err


def test_a_place_that_cannot_be_written_to_and_a_wrong_ending_are_told(folder, tmp_path, capsys):
    assert main(["report", str(folder), "--out", str(tmp_path / "no" / "it.html")]) == 1
    assert "directory not found: " in capsys.readouterr().err
    assert main(["report", str(folder), "--out", "it.pdf"]) == 2


def test_a_damaged_journal_costs_the_history_and_nothing_else(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "run")
    (tmp_path / "run" / "study.journal").write_text("no journal\n" * 3)
    source = read(tmp_path / "run")
    assert source.proposals is None
    assert "No journal was found" in page(source, NOW)


def test_curves_come_from_the_metrics_of_runs_and_else_from_milestones(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "run")
    rows = "".join(f"{i},{8 * i},0.01,{1 / i},{'' if i % 2 else i / 1000}\n" for i in range(1, 1001))
    path = tmp_path / "run" / "trials" / "0" / "metrics.csv"
    path.write_text(f"step,tokens,lr,train_loss,accuracy\n{rows}1001,80")
    source = read(tmp_path / "run")
    first, second = source.state.ledger.trials()[:2]
    points = facts.curve(source, first, "accuracy")
    assert points[-1] == (8000, 1.0)
    assert 50 < len(points) <= 100
    assert facts.curve(source, second, "accuracy") == [(s.tokens, s.metrics["accuracy"]) for s in second.seen]
    assert figures.curves(source, "train_loss").svg().count('class="line"') == 1


def test_names_beside_curves_end_within_the_figure(folder):
    source = read(folder)
    for record in source.records():
        if record.kind == "baseline":
            record.name = "a-rival-with-a-long-name"
    drawn = figures.curves(source, "accuracy").svg()
    ends = re.findall(r'<text x="([0-9.]+)"[^>]* class="name">([^<]+)', drawn)
    assert any("long-name" in text for _, text in ends)
    # that many pixels take the letters of this name in bold DejaVu Sans, a wide font
    assert all(float(x) + 8 * len(text) <= WIDE for x, text in ends)


@pytest.mark.parametrize(
    ("goals", "corner"),
    [
        (("minimize", False), [(0, 1), (5, 1), (5, 2)]),
        (("maximize", True), [(0, 1), (0, 2), (5, 2)]),
    ],
)
def test_the_stairs_of_a_front_bound_what_it_beats(goals, corner):
    direction, _ = goals
    assert figures._stairs([(0, 1), (5, 2)], direction == "minimize") == corner


def test_the_way_to_the_winner_is_its_ancestors_or_else_who_led(source):
    state, winner = source.state, source.state.winner()
    led = list(lineage.steps(state, winner))
    assert led[-1].record is winner
    values = [step.record.values[0] for step in led]
    assert values == sorted(values)
    trials = {record.name: record for record in state.ledger.trials()}
    child, parent = trials["9"], trials["2"]
    child.origin = {"parents": ["2"], "moves": ["seq: kv_heads 1 -> 2"]}
    parent.origin = {"parents": [], "moves": []}
    try:
        steps = [(step.record.name, step.words) for step in lineage.steps(state, child)]
    finally:
        child.origin = parent.origin = {}
    assert steps == [("2", "as proposed"), ("9", "from 2: seq: kv_heads 1 -> 2")]


def test_rungs_that_few_reached_or_that_rank_otherwise_are_warned_about(source, monkeypatch):
    pairs = list(facts.pairs(source))
    assert [(pair.first, pair.second) for pair in pairs] == [
        ("2.05k", "4.1k"),
        ("2.05k", "the end"),
        ("4.1k", "the end"),
    ]
    # the fake training ranks the same at every rung
    assert all(pair.agreement.tau == pytest.approx(1) for pair in pairs)
    assert "the latest" not in evidence.rungs(source)
    monkeypatch.setattr(facts, "LATEST", max(pair.trials for pair in pairs))
    assert f"the latest {facts.LATEST} are compared" in evidence.rungs(source)
    few = facts.Pair("accuracy", "a", "b", 3, agreement([1, 2, 3], [1, 2, 3]))
    assert "too few" in few.doubt
    other = facts.Pair("accuracy", "a", "b", 9, agreement(range(9), [1, 0, 3, 2, 8, 7, 6, 5, 4]))
    assert "says little" in other.doubt


def test_the_command_that_takes_a_stopped_run_on_names_its_own_spec(source):
    stopped = next(record for record in source.records() if record.status == "stopped")
    command = points(page(source, NOW))[f"trial-{stopped.name}"]["command"]
    copied = re.search(r"cp -r (\S+) (\S+) && composer train (\S+)/spec.yaml --out (\S+)", command)
    assert copied is not None
    assert copied[2] == copied[3] == copied[4]
    assert load(Path(copied[1]) / "spec.yaml").train.tokens == 8192


def test_runs_of_another_search_are_marked(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "run")
    path = tmp_path / "run" / "records" / "trial-3.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "imported": "runs/<older>"}))
    text = page(read(tmp_path / "run"), NOW)
    assert points(text)["trial-3"]["imported"] == "runs/<older>"
    assert ", imported" in points(text)["trial-3"]["status"]
    assert "1 from <code>runs/&lt;older&gt;</code>" in text
    assert "13 trials and the baselines read" in text
