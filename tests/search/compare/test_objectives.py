"""Objectives of every kind: estimated time as one, and three or four at once."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
from fake_training import FakeTraining, board, toy

from composer.costs.counting.plan import count
from composer.language.load import load
from composer.settings.errors import SpecError
from search.objectives import dominates
from search.run.study import run_search

TIMED = ["search.objectives=[{minimize: step_time}, {maximize: accuracy}]", "caps.step_time={device: a100}"]
THREE = "search.objectives=[{maximize: accuracy}, {minimize: flops_per_token}, {minimize: params}]"
FOUR = THREE.replace("]", ", {minimize: loss}]")


def test_the_time_of_a_step_is_an_objective_of_candidates_and_baselines(tmp_path):
    ended = run_search(toy(tmp_path, *TIMED, baseline="rival.yaml"), tmp_path / "run", FakeTraining())
    rows = board(tmp_path / "run")
    assert {row["kind"] for row in rows} == {"baseline", "trial"}
    for row in rows:
        spec = load(tmp_path / "run" / row["folder"] / "spec.yaml", ["caps.step_time={device: a100}"])
        assert 0 < float(row["step_time"]) == count(spec).step_time < 0.1
    # the winner is chosen by what training measures, wherever that stands among the objectives
    front = [row for row in rows if row["front"] == "1" and row["kind"] == "trial"]
    best = max(front, key=lambda row: float(row["accuracy"]))
    assert ended.state.winner().name == best["trial"]


def test_a_baseline_over_the_cap_on_time_is_refused(tmp_path):
    run = tmp_path / "run"
    plain = toy(tmp_path, "caps.step_time={device: a100, hard: 1e-9}", baseline="rival.yaml")
    with pytest.raises(
        ValueError, match=r"a baseline within the caps of toy, got .*rival.yaml with step_time"
    ):
        run_search(plain, run, FakeTraining())


def test_a_device_nobody_knows_is_told_at_once(tmp_path):
    space = toy(tmp_path, TIMED[0], "caps.step_time={device: a10}")
    with pytest.raises(SpecError, match=r"caps.step_time.device: expected a device, one of h100"):
        run_search(space, tmp_path / "run", FakeTraining())


no_scipy = pytest.mark.skipif(find_spec("scipy") is None, reason="gp needs scipy, the extra `gp`")
PAIRS = [
    ("tpe", FOUR),
    ("nsga2", THREE),
    ("evolution", FOUR),
    ("random", THREE),
    pytest.param("gp", THREE, marks=no_scipy),
    pytest.param("tpe", THREE, marks=pytest.mark.slow),
    pytest.param("nsga2", FOUR, marks=pytest.mark.slow),
    pytest.param("evolution", THREE, marks=pytest.mark.slow),
    pytest.param("random", FOUR, marks=pytest.mark.slow),
    pytest.param("gp", FOUR, marks=[no_scipy, pytest.mark.slow]),
]


@pytest.mark.parametrize(("sampler", "goals"), PAIRS)
def test_many_objectives_end_in_the_front_of_all_of_them(tmp_path, sampler, goals):
    space = toy(tmp_path, goals, f"search.sampler={sampler}", "search.trials=16", "search.keep=0.3")
    ended = run_search(space, tmp_path / "run", FakeTraining())
    rows = board(tmp_path / "run")
    assert len(rows) == 16
    full = [row for row in rows if row["status"] == "finished"]
    assert len(ended.state.goals.names) == (3 if goals == THREE else 4)
    assert {row["status"] for row in rows} <= {"finished", "stopped"}

    def turned(row):
        return ended.state.goals.ascending(tuple(float(row[name]) for name in ended.state.goals.names))

    for row in full:
        beaten = any(dominates(turned(other), turned(row)) for other in full)
        assert (row["front"] == "1") != beaten
    assert all(row["front"] == "0" for row in rows if row not in full)
    best = max((row for row in full if row["front"] == "1"), key=lambda row: turned(row)[0])
    assert ended.state.winner().name == best["trial"]
