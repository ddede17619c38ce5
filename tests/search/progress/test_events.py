"""`composer search --json`: what a program reads."""

from __future__ import annotations

import io
import json

import pytest
from fake_training import AGAIN, TWO, FakeTraining, Luck, toy

from composer.cli.main import main
from search.progress.events import Events
from search.run.study import run_search

RUN = {
    "name",
    "kind",
    "status",
    "reason",
    "folder",
    "tokens",
    "values",
    "params",
    "costs",
    "seconds",
    "worker",
    "again",
    "imported",
}
COUNTS = {"done", "trials", "finals_done", "finals"}
BEGIN = {"folder", "space", "objectives", "rungs", "rungs_in", "baselines", "proposals", "sampler", "budgets"}
FIELDS = {
    "begin": BEGIN | {"finalists", "seeds", "lr_sweep"} | COUNTS,
    "proposed": {"worker", "outcomes", "proposals"},
    "started": RUN | COUNTS,
    "taken_over": {"worker", "name", "kind", "folder", "left_by", "tokens"},
    "progress": {"worker", "name", "tokens", "target", "train_loss", "seconds"},
    "rung": RUN | {"milestone", "metrics", "tau_bound"},
    "note": {"worker", "note"},
    "ended": RUN | COUNTS | {"front", "seconds_left", "budgets"},
    "end": {
        "reason",
        "folder",
        "proposals",
        "seconds",
        "budgets",
        "moved_rungs",
        "winner",
        "rule",
        "knee",
        "best_baseline",
        "standings",
        "verdict",
        "uneven",
        "front",
        "command",
        "report",
    }
    | COUNTS,
}


def watched(tmp_path, *overrides: str, train=None, **options) -> list[dict]:
    text = io.StringIO()
    space = toy(tmp_path, TWO, *overrides, baseline="rival.yaml")
    events = Events(text, tmp_path / "run", "toy", **options)
    ended = run_search(space, tmp_path / "run", train or FakeTraining(), events)
    events.end(ended.state, ended.reason, None)
    return [json.loads(line) for line in text.getvalue().splitlines()]


def test_every_event_has_its_fields_and_no_other(tmp_path):
    events = watched(tmp_path)
    assert {event["event"] for event in events} | {"note", "taken_over"} == FIELDS.keys()
    for event in events:
        assert event.keys() == FIELDS[event["event"]] | {"event", "time"}
    assert [events[0]["event"], events[-1]["event"]] == ["begin", "end"]


def test_events_tell_the_course_of_a_search(tmp_path):
    events = watched(tmp_path)
    ends = [event for event in events if event["event"] == "ended"]
    assert [event["kind"] for event in ends] == ["baseline"] + 6 * ["trial"]
    assert [event["done"] for event in ends] == list(range(7))
    last = events[-1]
    assert last["winner"]["name"] in last["front"]
    assert last["best_baseline"]["name"] == "rival"
    assert last["reason"] == "all 6 trials are done"
    assert last["winner"]["values"].keys() == {"accuracy", "flops_per_token"}
    outcomes = [outcome for event in events if event["event"] == "proposed" for outcome in event["outcomes"]]
    assert {outcome: outcomes.count(outcome) for outcome in outcomes} == last["proposals"]
    rungs = [event for event in events if event["event"] == "rung" and event["name"] == "rival"]
    assert [(event["milestone"], event["tokens"]) for event in rungs] == [(1, 2048), (2, 4096), (3, 8192)]


def test_events_tell_finals_budgets_and_the_verdict(tmp_path):
    events = watched(tmp_path, *AGAIN, "search.tokens=1M", "search.time_limit=1h", train=Luck())
    first, last = events[0], events[-1]
    assert (first["finalists"], first["seeds"], first["lr_sweep"]) == (2, 3, [0.5, 2])
    assert [(each["name"], each["limit"]) for each in first["budgets"]] == [
        ("tokens", 1e6),
        ("seconds", 3600),
    ]
    finals = [event for event in events if event["event"] == "ended" and event["kind"] == "final"]
    assert len(finals) == 15 == last["finals"] == last["finals_done"]
    assert {event["again"]["of"] for event in finals} == {
        f"{at['kind']}-{at['name']}" for at in last["standings"]
    }
    assert {"of": "baseline-rival", "lr": 0.5, "seed": 0} in [event["again"] for event in finals]
    values = [each["values"]["accuracy"] for each in finals if each["again"]["of"] == "baseline-rival"][2:]
    assert last["standings"][-1]["mean"]["accuracy"] == pytest.approx(sum(values) / 3)
    assert last["standings"][-1]["sweep"].keys() == {"0.5", "1", "2"}
    spent = next(each for each in last["budgets"] if each["name"] == "tokens")["spent"]
    assert spent == sum(event["tokens"] for event in events if event["event"] == "ended")
    accuracy, flops = last["verdict"]
    assert accuracy["verdict"] in ("significant", "not significant")
    assert accuracy["better"] == pytest.approx(accuracy["winner"] - accuracy["best_baseline"])
    assert (flops["verdict"], flops["p"]) == ("cost", None)


@pytest.mark.parametrize(("clock", "lines"), [(lambda: 0.0, 1), (iter(range(10_000)).__next__, None)])
def test_progress_is_told_once_a_second_at_most(tmp_path, clock, lines):
    results = [event for event in watched(tmp_path, clock=clock) if event["event"] == "progress"]
    assert len(results) == lines if lines else len(results) > 7


def test_the_command_prints_events_alone_and_leaves_a_report(tmp_path, capsys):
    from fake_training import SMALL

    (tmp_path / "space.yaml").write_text(SMALL)
    run = tmp_path / "run"
    assert main(["search", str(tmp_path / "space.yaml"), "--out", str(run), "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[-1]["report"] == str(run / "report.html")
    assert lines[-1]["command"] == (run / "best" / "train.txt").read_text().strip()
    assert (run / "figures" / "front.svg").is_file()


def test_a_report_that_fails_is_told_and_the_search_ends_well(tmp_path, capsys, monkeypatch):
    from fake_training import SMALL

    def fail(folder, seen):
        raise ZeroDivisionError("no way")

    monkeypatch.setattr("search.commands.run_and_report.write_report", fail)
    (tmp_path / "space.yaml").write_text(SMALL)
    assert (
        main(["search", str(tmp_path / "space.yaml"), "--out", str(tmp_path / "run"), "--trials", "1"]) == 0
    )
    out, err = capsys.readouterr()
    assert "1 trial: " in out
    assert "the report could not be written (ZeroDivisionError: no way)" in err
    assert "composer report" in err
