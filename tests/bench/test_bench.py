"""`composer bench`: what is measured, who takes part, what is said of them and written."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from replaying import Replaying

from composer.bench import run
from composer.bench.measuring import clocks, pairs, setting
from composer.bench.measuring.clocks import wall
from composer.bench.measuring.machine import Rates
from composer.bench.measuring.pairs import Timing, ratio, side_by_side
from composer.bench.measuring.records import Goal, Part, Row, as_json
from composer.bench.measuring.setting import Case, Setting, measured
from composer.bench.parts import step
from composer.bench.report import cases, ending, goals
from composer.cli.main import main
from composer.language.load import load

TINY = str(Path(__file__).parents[2] / "specs" / "dreamer-tiny.yaml")
SMALL = ["--set", "train.batch_tokens=96", "--set", "stages.0.recur=2"]
NO_GRAPHS = "expected a GPU, got the device cpu"
HERE = Setting(
    torch.device("cpu"), torch.float32, False, 2, wall, Rates(1e10, 1e11), compiles=False, warmup=1
)


@pytest.fixture(autouse=True)
def without_compiler(monkeypatch):
    # what torch compiles takes most of a minute
    monkeypatch.setattr(setting, "compiler_works", lambda device, note=None: False)


def test_every_round_runs_everyone_once_in_an_order_of_its_own():
    order = []
    names = ["a", "b", "c"]
    timings, failed = side_by_side(
        {name: lambda name=name: order.append(name) for name in names}, 20, warmup=1
    )
    assert failed == {}
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


def test_whoever_runs_out_of_memory_has_a_row_that_says_so_whenever_it_happens():
    calls = {"late": 0}

    def early():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 80 GiB")

    def late():
        calls["late"] += 1
        if calls["late"] > 2:
            raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes")

    contestants = {"making": early, "early": lambda: early, "late": lambda: late, "fine": lambda: lambda: 0}
    rows = {row.name: row for row in measured(Case("c", "t", contestants, ["early"], "fine", 1e6), HERE)}
    assert [row.note for row in rows.values()] == ["out of memory"] * 3 + [""]
    assert rows["early"].seconds is rows["late"].seconds is None
    assert rows["fine"].against == (1, 1, 1)
    assert rows["fine"].floor == pytest.approx(1e-4)
    assert "out of memory" in "\n".join(cases(rows.values()))


class TooMuchShared(Exception):
    """As compilers have them, of no kind that torch knows."""


def test_who_fails_in_any_way_is_told_of_and_if_it_is_ours_has_missed_its_goals():
    def broken():
        raise TooMuchShared("x" * 999)

    assert pairs.attempt(lambda: torch.mm(torch.ones(2), torch.ones(2))).startswith("RuntimeError: ")
    assert pairs.attempt(broken) == f"TooMuchShared: {'x' * 200}"
    case = Case("c", "t", {"a": lambda: broken, "b": lambda: broken}, ["a"], goals=lambda row: [1 / 0])
    assert [row.goals for row in measured(case, HERE)] == [(), ()]
    ours, theirs = measured(case, replace(HERE, full=True))
    assert theirs.goals == ()
    assert "c, t, a: runs at all: not met (0)" in "\n".join(goals([Part("p", [ours, theirs])]))


def test_where_the_gpu_is_lost_the_parts_after_it_say_so(monkeypatch):
    lost = []

    def wait():
        if lost:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def part(here):
        yield [Row("c", "t", "a")]
        yield measured(Case("c", "t", {"b": lambda: lambda: lost.append(1)}), here)

    monkeypatch.setattr(pairs, "wait", wait)
    first, second = run.run([("one", part), ("two", part)], HERE, lambda done: None)
    assert [row.name for row in first.rows] == ["a"]
    assert first.failed == second.failed
    assert "after: RuntimeError: CUDA error: an illegal memory access" in first.failed
    assert (second.rows, second.complete) == ([], True)


def test_goals_are_held_to_at_full_size_alone_and_told_both_ways():
    case = Case(
        "c",
        "t",
        {"ours": lambda: lambda: 0, "theirs": lambda: lambda: 0},
        ["ours"],
        goals=lambda row: [Goal("quick", 60.0, row.seconds, least=False), Goal("never", 2.0, 1.0)],
    )
    assert [row.goals for row in measured(case, HERE)] == [(), ()]
    ours, theirs = measured(case, replace(HERE, full=True))
    assert [goal.met for goal in ours.goals] == [True, False]
    assert theirs.goals == ()
    message = "\n".join(goals([Part("p", [ours, theirs])]))
    assert "quick: met" in message
    assert "never: not met (1)" in message


def test_the_command_runs_every_part_and_writes_what_it_tells(tmp_path, capsys):
    out, picture = tmp_path / "bench.json", tmp_path / "bench.svg"
    line = ["bench", "--rounds", "2", "--json", str(out), "--picture", str(picture)]
    assert main(line) == 0
    output, shown = json.loads(out.read_text()), capsys.readouterr().out
    assert {"schema": 1, "finished": True, "full_size": False, "rounds": 2}.items() <= output.items()
    assert output["machine"]["torch"] == torch.__version__
    assert min(output["rates"].values()) > 0
    assert [part["name"] for part in output["parts"]] == [*run.PARTS]
    rows = [row for part in output["parts"] for row in part["rows"]]
    for part in output["parts"]:
        assert part["complete"]
        assert part["failed"] == ""
        assert part["rows"]
    for row in rows:
        assert row["name"] in shown
        assert {*row} == {*Row.__dataclass_fields__, "share"}
        # what a CPU has no kernel for, and nothing else
        assert (row["seconds"] is None) == bool(row["note"])
        assert row["note"] in ("", "needs a GPU", "torch.compile does not work here", NO_GRAPHS), row
        if row["floor"] and row["seconds"]:
            assert row["share"] == pytest.approx(row["floor"] / row["seconds"])
    assert drawn_rows(picture) == len(rows)


def drawn_rows(picture: Path) -> int:
    """Every bar has a frame; who failed has none."""
    root = ElementTree.parse(picture).getroot()
    frames = [each for each in root if each.get("stroke") and each.tag.endswith("rect")]
    texts = [each.text or "" for each in root if each.tag.endswith("text")]
    width, height = float(root.get("width")), float(root.get("height"))
    for each in root:
        if each.get("x"):
            assert 0 <= float(each.get("x")) < width
            assert 0 <= float(each.get("y")) < height
    notes = [text for text in texts if text.startswith(("needs a GPU", "expected a GPU", "torch.compile"))]
    return len(frames) + len(notes)


def test_only_the_parts_that_are_asked_for_run(tmp_path, capsys):
    out = tmp_path / "bench.json"
    assert main(["bench", "--only", "loss,depth", "--rounds", "1", "--json", str(out)]) == 0
    assert [part["name"] for part in json.loads(out.read_text())["parts"]] == ["depth", "loss"]
    assert "routing" not in capsys.readouterr().out


def test_an_interrupted_run_leaves_what_is_done(tmp_path, monkeypatch):
    out = tmp_path / "bench.json"

    def stopped(here):
        yield [Row("c", "t", "a", seconds=1.0)]
        assert json.loads(out.read_text())["parts"][-1]["rows"][0]["name"] == "a"
        raise KeyboardInterrupt

    parts = {"loss": run.PARTS["loss"], "step": stopped}
    monkeypatch.setattr(run, "PARTS", parts)
    assert main(["bench", "--rounds", "1", "--json", str(out)]) == 130
    output = json.loads(out.read_text())
    assert output["finished"] is False
    assert [(part["name"], part["complete"]) for part in output["parts"]] == [("loss", True), ("step", False)]
    assert output["parts"][1]["rows"][0]["name"] == "a"
    assert [path.name for path in tmp_path.iterdir()] == ["bench.json"]


def test_a_part_that_fails_says_why_and_the_next_one_runs():
    def broken(here):
        yield [Row("c", "t", "a")]
        raise RuntimeError("no such\nkernel")

    parts = run.run(
        [("one", broken), ("two", lambda here: iter([[Row("c", "t", "b")]]))], HERE, lambda done: None
    )
    assert [part.failed for part in parts] == ["RuntimeError: no such", ""]
    assert [row.name for part in parts for row in part.rows] == ["a", "b"]
    assert "ended early: RuntimeError: no such" in "\n".join(ending(parts[0]))
    assert as_json({}, parts, True)["parts"][0]["failed"]


def test_a_spec_is_timed_by_its_own_step(tmp_path, capsys):
    out = tmp_path / "bench.json"
    assert main(["bench", TINY, *SMALL, "--rounds", "2", "--json", str(out)]) == 0
    output = json.loads(out.read_text())
    assert output["of"] == "dreamer-tiny"
    (part,) = output["parts"]
    rows = {row["name"]: row for row in part["rows"]}
    ours = ["composer", "composer, pointwise recomputed", "composer, all recomputed"]
    theirs = ["by hand, einsum", "by hand, elementwise", "by hand, slots"]
    uncompiled = ["composer, regions compiled", "by hand, compiled"]
    assert sorted(rows) == sorted([*ours, *theirs, *uncompiled, step.GRAPH])
    assert {rows.pop(name)["note"] for name in uncompiled} == {"torch.compile does not work here"}
    assert rows.pop(step.GRAPH)["note"] == NO_GRAPHS
    assert rows["composer"]["against"] == [1, 1, 1]
    for row in rows.values():
        assert row["tokens"] == pytest.approx(96 / row["seconds"])
        assert row["ours"] == (row["name"] in ours)
        assert row["task"] == "forward + backward + AdamW"
    shown = capsys.readouterr().out
    assert all(name in shown for name in rows)


def test_a_step_is_timed_as_training_replays_it_where_graphs_can_be_recorded(monkeypatch):
    made = []

    class Recorder(Replaying):
        def __init__(self):
            super().__init__()
            made.append(self)

    monkeypatch.setattr(step, "RECORDER", Recorder)
    spec = load(TINY, [each for each in SMALL if each != "--set"])
    rows = {row.name: row for row in step.bench_step(spec, replace(HERE, rounds=1))}
    graph = rows[step.GRAPH]
    assert (graph.ours, graph.note, graph.seconds is None) == (True, "", False)
    # a forward and a backward pass for each run, and once to compare
    (recorder,) = [each for each in made if each.recorded]
    assert recorder.recorded == 2
    assert recorder.replays == 2 * (1 + 2 + HERE.warmup + 1)


def test_a_spec_of_another_form_is_refused_with_its_place(capsys):
    assert main(["bench", TINY, "--set", "stages.0.inject=add"]) == 1
    assert "stages.0: expected the defaults" in capsys.readouterr().err


@pytest.mark.parametrize(
    "line",
    [
        ["--only", "depht"],
        [TINY, "--only", "depth"],
        ["--set", "train.lr=1"],
        ["--picture", "a.png"],
        ["--tune", "--only", "depth"],
    ],
)
def test_what_does_not_go_together_is_wrong_usage(line, capsys):
    assert main(["bench", *line]) == 2


def test_a_gpu_is_kept_busy_for_as_long_as_this_run_takes_to_queue(monkeypatch):
    """The clock of a device, its events and waits played by a CPU."""
    cycles_run, early = [], []
    monkeypatch.setattr(clocks, "_spin", lambda cycles: cycles_run.append(cycles))
    monkeypatch.setattr(clocks, "_between", lambda run: (run(), 1.0, bool(early and early.pop()))[1:])
    monkeypatch.setattr(clocks, "_wake", lambda: None)
    queueing = iter([1e-3, 2e-3])
    monkeypatch.setattr(clocks, "_queueing", lambda run: next(queueing))
    zeros = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda n, size, dtype, device: zeros(n, 8, dtype=dtype))
    clock = clocks.DeviceClock()
    per_second, ran = cycles_run[0], []
    cycles_run.clear()
    for number in (0, 1):
        # each is gone before the next is made, and its place in memory may be taken again
        assert clock(partial(ran.append, number)) == 1.0
    assert cycles_run == [int((1.5 * each + 1e-4) * per_second) for each in (1e-3, 2e-3)]
    kept = partial(ran.append, 2)
    queueing = iter([9.0])
    clock(kept)
    clock(kept)
    # asked once for a run, and never for longer than is sensible
    assert cycles_run[2:] == [int(0.05 * per_second)] * 2
    cycles_run.clear()
    queueing, again = iter([0.01]), partial(ran.append, 3)
    early += [False, True]
    clock(again)
    clock(again)
    # begun too early once, it is run again after twice the spin, and so from then on
    assert cycles_run == [int(each * per_second) for each in (0.0151, 0.0302, 0.0302)]
    assert ran[-4:] == [3] * 4
