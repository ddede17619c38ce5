"""`composer search` as a user meets it, and one small search that really trains."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from fake_training import SMALL, TWO, FakeTraining, board, toy
from rich.console import Console

from composer import load_run
from composer.cli.main import main
from composer.costs.base.units import duration
from composer.language.load import load
from composer.language.space import load_space
from search.commands import run_and_report
from search.progress.state import State
from search.progress.table import Lines, LiveTable, summary
from search.propose.requirements import check_search
from search.run.preview import preview
from search.run.study import run_search

SHIPPED = Path(__file__).parents[3] / "specs" / "space.yaml"


@pytest.fixture
def small(tmp_path: Path) -> str:
    (tmp_path / "space.yaml").write_text(SMALL)
    return str(tmp_path / "space.yaml")


def test_a_small_search_trains_and_leaves_a_winner_one_can_load_and_train_longer(small, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["search", small, "--out", str(out)]) == 0
    output = capsys.readouterr().out
    assert "2 trials: " in output
    assert f"train it again, longer: composer train {out}/best/spec.yaml --set train.tokens=8192" in output
    rows = board(out)
    winner = next(row for row in rows if row["status"] == "finished")
    model = load_run(out / winner["folder"])
    assert sum(p.numel() for p in model.parameters()) == int(winner["params"]) <= 1800
    for name in ("spec.yaml", "best.ckpt", "last.ckpt", "model.safetensors", "metrics.csv"):
        assert (out / "best" / name).read_bytes() == (out / winner["folder"] / name).read_bytes()
    assert 0 < float(winner["accuracy_k1"]) <= 1
    # the same command finds everything done, and trains nothing
    before = {path: path.stat().st_mtime_ns for path in out.glob("trials/*/*.ckpt")}
    assert main(["search", small, "--out", str(out), "--quiet"]) == 0
    assert "all 2 trials are done" in capsys.readouterr().out.lower()
    assert {path: path.stat().st_mtime_ns for path in out.glob("trials/*/*.ckpt")} == before
    # the command for the winner is one that works
    longer = [
        "train",
        str(out / "best" / "spec.yaml"),
        "--set",
        "train.tokens=3Ki",
        "--out",
        str(tmp_path / "on"),
    ]
    assert main(longer) == 0


def test_a_candidate_that_diverges_is_a_crash_with_its_reason(small, tmp_path, capsys):
    overrides = ["train.lr=1e30", "train.clip=0", "search.rungs=[]"]
    options = [part for override in overrides for part in ("--set", override)]
    assert main(["search", small, *options, "--out", str(tmp_path / "run"), "--trials", "3"]) == 1
    output = capsys.readouterr().err
    assert "3 candidates in a row could not be trained" in output
    assert "learning rate" in output
    rows = board(tmp_path / "run")
    assert [row["status"] for row in rows] == ["crashed"] * 3


def test_a_dry_run_costs_and_trains_nothing(small, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["search", small, "--dry-run", "--trials", "40"]) == 0
    output = capsys.readouterr().out
    assert "40 random points of 3 parameters, none trained" in output
    assert "over caps.params: " in output
    assert "flops_per_token" in output
    assert not (tmp_path / "runs").exists()


def test_the_default_folder_is_below_runs_and_an_interrupt_can_be_gone_on_from(
    small, tmp_path, capsys, monkeypatch
):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_and_report, "run_search", interrupted)
    assert main(["search", small]) == 130
    out, err = capsys.readouterr()
    assert f"searching in runs/small-{load_space(small).identity()}" in out
    assert "run the same command again to continue" in err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--trials", "0"], 2, "--trials"),
        (["--set", "search.sampler=bohb"], 1, "expected evolution, gp, nsga2, random or tpe, got 'bohb'"),
        (["--set", "search.objectives=[{maximize: accuracy_k7}]"], 1, "got 'accuracy_k7'"),
        (["--set", "caps.params=1"], 1, "over caps.params"),
    ],
)
def test_what_cannot_be_searched_is_told(small, tmp_path, capsys, monkeypatch, arguments, code, message):
    monkeypatch.setattr("search.run.study.PATIENCE", 20)
    assert main(["search", small, "--out", str(tmp_path / "run"), *arguments]) == code
    assert message in capsys.readouterr().err


def ended(folder: Path, *overrides: str, watch=None, fault=None, baseline="") -> tuple[State, str]:
    fake = FakeTraining() if fault is None else FakeTraining(fault)
    space = toy(folder, *overrides, baseline=baseline)
    result = run_search(space, folder / "run", fake, watch or (lambda event, state: None))
    return result.state, "\n".join(summary(folder / "run", result.state, result.reason))


def test_plain_lines_tell_each_run_once(tmp_path):
    text = io.StringIO()
    ended(tmp_path, watch=Lines(Console(file=text, width=80)), baseline="rival.yaml")
    lines = text.getvalue().splitlines()
    assert lines[0] == "maximize accuracy: 0 of 6 trials"
    ends = [line for line in lines if "trained in full" in line or "stopped at a rung" in line]
    assert len(ends) == 7
    assert ends[0].startswith("baseline rival: trained in full after 8.19k tokens, accuracy 0.")
    assert "6 of 6 trials" in ends[-1]


def test_the_live_table_shows_the_run_in_progress_the_best_and_the_counts(tmp_path, monkeypatch):
    monkeypatch.setattr("search.progress.table._REFRESH", 0)
    monkeypatch.setattr("search.progress.table._PAUSE", 0)
    text = io.StringIO()
    with LiveTable(Console(file=text, force_terminal=True, width=160, height=50)) as table:
        ended(tmp_path, TWO, watch=table)
    shown = text.getvalue()
    for part in (
        "of 2.05k tokens, train loss 0.500, first rung",
        "of 8.19k tokens, train loss 0.500, 2 rungs passed",
    ):
        assert part in shown
    for part in ("5 of 6 trials, about 0s left", "over a cap", "% refused", "stopped", "* 0"):
        assert part in shown


def test_the_winner_is_held_against_the_best_baseline_with_the_doubt_that_one_seed_leaves(tmp_path):
    state, output = ended(tmp_path, baseline="rival.yaml")
    rival, winner = state.front("baseline")[0], state.winner()
    assert winner is not None
    word = "better" if winner.values > rival.values else "worse"
    size = f"{abs(winner.values[0] - rival.values[0]):.4g}"
    assert f"the winner against it: accuracy {size} {word} (one seed each, so no p-value)" in output
    assert "one seed each" in output


def test_a_search_without_a_winner_says_so(tmp_path):
    state, output = ended(tmp_path, "search.trials=2", fault=_crash)
    assert state.winner() is None
    assert "no trial was trained in full" in output


def _crash(spec, tokens):
    from search.errors import Crash

    raise Crash("no")


@pytest.mark.parametrize(("seconds", "message"), [(0, "0s"), (89, "89s"), (90, "2min"), (7200, "2.0h")])
def test_times_read_as_one_says_them(seconds, message):
    assert duration(seconds) == message


def test_the_shipped_space_has_points_on_both_sides_of_its_caps_and_a_baseline_within(capsys):
    space = load_space(SHIPPED)
    check_search(space)
    points = preview(space, 200).points
    share = sum(point.verdict == "feasible" for point in points) / len(points)
    assert 0.3 < share < 0.95
    assert not any(point.verdict == "invalid" for point in points)
    layers = {point.params["stages.0.step.0.step"] for point in points}
    assert layers == {"transformer", "experts", "deep", "dreamer", "parallel"}
    baseline = load(SHIPPED.with_name("space-baseline.yaml")).train
    rates = {float(point.params["train.lr"]) for point in points}
    assert baseline.lr in rates
    assert baseline.model_copy(update={"lr": 0.005}) == space.example().spec.train
