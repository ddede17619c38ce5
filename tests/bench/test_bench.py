"""`composer bench`: who takes part, and what is said of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from composer.bench.pairs import Timing, ratio, side_by_side
from composer.cli.main import main

TINY = str(Path(__file__).parents[2] / "specs" / "dreamer-tiny.yaml")
SMALL = ["--set", "train.batch_tokens=96", "--set", "stages.0.recur=2"]


def test_every_round_runs_everyone_once_in_an_order_of_its_own():
    order = []
    names = ["a", "b", "c"]
    timings = side_by_side({name: lambda name=name: order.append(name) for name in names}, 20, warmup=1)
    assert order[:3] == names
    rounds = [tuple(order[i : i + 3]) for i in range(3, 63, 3)]
    assert len(rounds) == 20
    assert {frozenset(each) for each in rounds} == {frozenset(names)}
    assert len(set(rounds)) > 1
    assert all(len(timing.seconds) == 20 for timing in timings.values())


def test_a_ratio_is_that_of_the_same_rounds():
    # the second round was twice as slow for both
    assert ratio(Timing((2.0, 4.0, 2.0)), Timing((1.0, 2.0, 1.0))).middle == 2
    assert str(ratio(Timing((1.0,)), Timing((2.0,)))) == "0.50x (0.50 to 0.50)"


def test_the_command_tells_all_and_writes_it(tmp_path, capsys, monkeypatch):
    # what torch compiles takes most of a minute
    monkeypatch.setattr("composer.bench.step._compiles", lambda told: False)
    out = tmp_path / "bench.json"
    assert main(["bench", TINY, *SMALL, "--rounds", "2", "--json", str(out)]) == 0
    told = json.loads(out.read_text())
    rows = {row["name"]: row for row in told["rows"]}
    assert list(rows) == ["composer", "by hand, einsum", "by hand, elementwise"]
    assert told["rounds"] == 2
    assert told["torch"]
    assert rows["composer"]["against"] == {"middle": 1, "low": 1, "high": 1}
    for row in rows.values():
        assert row["tokens"] == pytest.approx(96 / row["seconds"])
    shown = capsys.readouterr().out
    assert all(name in shown for name in rows)


def test_a_spec_of_another_form_is_refused_with_its_place(capsys):
    assert main(["bench", TINY, "--set", "stages.0.inject=add"]) == 1
    assert "stages.0: expected the defaults" in capsys.readouterr().err
