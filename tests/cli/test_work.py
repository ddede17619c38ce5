"""However large its numbers, a small spec is little work: counted in lines of Python, not in seconds."""

from __future__ import annotations

import json
import random
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from samples import FULL

from composer.cli.main import main
from composer.language.description.show import document
from composer.language.load import load
from composer.language.schema.caps import Caps

ROOT = Path(__file__).parents[2]
SPECS = [p for p in sorted((ROOT / "specs").glob("*.yaml")) if "\nsearch:" not in p.read_text("utf-8")]
EXTREMES = ["0", "1", "7", "999983", "999999999989", "1e12", "1e18", "1e19", "-1", "1e-300", "1e300", ".nan"]
EXTREMES.append("x" * 20_000)
COMMANDS = ["check", "cost", "show", "diff", "draw", "compile", "fit"]
LINES = 6_500_000
"""Lines of Python that a command may run. Shipped specs over a cap take up to two million."""
BLOCKS = {
    "s": {"type": "sequence_attention", "heads": 4},
    "d": {"type": "depth_attention", "heads": 4},
    "e": {"type": "expert_attention", "experts": 8, "active": 2, "hidden": 16},
    "f": {"type": "feed_forward", "hidden": 64},
}


class TooMuchWork(BaseException):
    """More lines than there may be; no code catches it."""


def lines_of(run: Callable[[], int], most: int = LINES) -> tuple[int, int]:
    """Return what a function returns, and the lines of Python it ran; TooMuchWork beyond `most`."""
    count = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        count += 1
        if count > most:
            raise TooMuchWork
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        return run(), count
    finally:
        sys.settrace(before)


def works(command: str, file: Path, *settings: str) -> None:
    """Run a command on a spec, which is accepted or refused within the lines there may be."""
    options = [each for setting in settings for each in ("--set", setting)]
    files = [str(file), str(file)] if command == "diff" else [str(file)]
    code, _ = lines_of(lambda: main([command, *files, *options]))
    assert code in (0, 1)


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[str]:
    if isinstance(value, dict | list | tuple):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(item, (*path, key))
    else:
        yield ".".join(map(str, path))


def cases() -> Iterator[tuple[str, Path, str, str]]:
    """Yield a command, a spec, a field and a value: of all of them some, the same every time."""
    every = []
    for file in SPECS:
        fields = {*leaves(document(load(file))), *(f"caps.{cap}" for cap in Caps.model_fields)}
        every += [(c, file, field, value) for c in COMMANDS for field in sorted(fields) for value in EXTREMES]
    yield from random.Random(0).sample(every, 2000 if FULL else 120)


@pytest.mark.parametrize("part", range(8))
def test_extreme_numbers_in_any_field_are_little_work(part, capsys):
    for command, file, field, value in [*cases()][part::8]:
        try:
            works(command, file, f"{field}={value}")
        except TooMuchWork:
            pytest.fail(f"composer {command} {file.name} --set {field}={value[:20]}: over {LINES} lines")
        capsys.readouterr()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("stages.0.recur", "{int: [1, 100000], log: true}"),
        ("stages.0.step.0.stack", "{int: [1, 4096]}"),
        ("blocks.mlp.hidden", "{int: [1, 999999999]}"),
        ("model.context", "{int: [1, 1e18]}"),
        ("train.lr", "{float: [1e-300, 1e300], log: true}"),
    ],
)
@pytest.mark.parametrize("caps", ["caps=null", "caps.params=40k"])
def test_the_preview_of_a_space_with_extreme_ranges_is_little_work(field, value, caps, capsys):
    options = ["--dry-run", "--set", f"{field}={value}", "--set", caps]
    code, _ = lines_of(lambda: main(["search", str(ROOT / "specs" / "space.yaml"), *options]), 20 * LINES)
    assert code in (0, 1)


CAPS = {"params": 1, "train_memory": 1, "flops_per_token": 1}


def nested(levels: int, trips: int, kind: str = "recur") -> list[dict[str, Any]]:
    stage: dict[str, Any] = {kind: trips, "step": ["d"]}
    for _ in range(levels - 1):
        stage = {kind: trips, "step": [stage]}
    return [stage]


SHAPES: dict[str, dict[str, Any]] = {
    "a long step over its caps": {"stages": [{"recur": 2, "step": ["s", "d"] * 5}], "caps": CAPS},
    "stages in stages": {"stages": nested(4, 3), "caps": CAPS},
    "as many layers as there may be": {"stages": [{"stack": 1_000_000, "step": ["s", "d"]}], "caps": CAPS},
    "loops that multiply": {"stages": nested(3, 100, "stack"), "caps": CAPS},
}


def spec(tmp_path: Path, **sections: Any) -> Path:
    used = json.dumps(sections["stages"])
    blocks = {name: block for name, block in BLOCKS.items() if f'"{name}"' in used}
    model = {"width": 64, "vocab": 16, "context": 48}
    path = tmp_path / "spec.yaml"
    path.write_text(json.dumps({"schema": 1, "name": "t", "model": model, "blocks": blocks, **sections}))
    return path


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("command", ["check", "draw", "diff"])
def test_long_and_deep_specs_are_little_work(tmp_path, shape, command, capsys):
    works(command, spec(tmp_path, **SHAPES[shape]), *(["name=u"] if command == "diff" else []))


LONG: dict[str, Callable[[int], list[dict[str, Any]]]] = {
    "steps": lambda times: [{"recur": 2, "step": ["s", "d", "e", "f"] * times}],
    "stages": lambda times: [{"recur": 2, "step": ["s", "f"]}, {"stack": 3, "step": ["d"]}] * times,
    "branches": lambda times: [{"recur": 2, "step": [{"parallel": ["s", "d", "f"] * times}]}],
}


@pytest.mark.parametrize("shape", LONG)
@pytest.mark.parametrize("command", ["check", "draw", "diff"])
def test_work_grows_in_proportion_to_what_is_written(tmp_path, shape, command, capsys):
    options = ["--set", "model.width=128"] if command == "diff" else []
    ran = []
    for times in (2, 4, 8, 16):  # the first one imports what the command needs, and is not compared
        path = str(spec(tmp_path, stages=LONG[shape](times)))
        files = [path] * (1 + bool(options))
        code, lines = lines_of(lambda files=files: main([command, *files, *options]), 2 * LINES)
        assert code == 0, capsys.readouterr().err
        ran.append(lines)
    assert ran[3] - ran[2] < 2.5 * (ran[2] - ran[1])


def test_more_blocks_than_costs_can_look_at_are_refused(tmp_path, capsys):
    for stages, got in (
        ([{"recur": 2, "step": ["s", "d"] * 600}], 1200),
        (nested(8, 1), 3**7),
        ([{"recur": 1, "step": [{"parallel": ["s", "d"] * 600}]}], 1200),
    ):
        works("check", spec(tmp_path, stages=stages))
        output = f"expected at most 1000 places of blocks, those in a nested stage counted 3 times, got {got}"
        assert output in capsys.readouterr().err


def test_names_without_end_are_told_shortly(tmp_path, capsys):
    stages = [{"recur": 2, "step": [f"x{n}" for n in range(900)]}]
    works("check", spec(tmp_path, stages=stages))
    path = spec(tmp_path, stages=[{"recur": 2, "step": ["s"]}], **{f"key{n}": 1 for n in range(3000)})
    capsys.readouterr()
    works("check", path)
    output = capsys.readouterr().err
    assert "expected at most 200 faults, got 3000 faults, of which these are the first" in output
    assert len(output.splitlines()) < 250


def test_files_that_extend_each_other_without_end_are_refused(tmp_path, capsys):
    for n in range(18):
        (tmp_path / f"{n}.yaml").write_text(f"extends: [{n + 1}.yaml, {n + 1}.yaml]\n")
    (tmp_path / "18.yaml").write_text("schema: 1\n")
    works("check", tmp_path / "0.yaml")
    assert "expected at most 100 files read through extends, got more" in capsys.readouterr().err


def test_a_search_for_sizes_says_where_it_gave_up(capsys, monkeypatch):
    monkeypatch.setattr("composer.costs.fitting.fit.SUGGESTING", 400)
    works("check", ROOT / "specs" / "dreamer-tiny.yaml", "caps.params=60k")
    assert "; stopped after 400 operations costed)" in capsys.readouterr().err
    monkeypatch.setattr("composer.costs.fitting.fit._FITTING", 400)
    works("fit", ROOT / "specs" / "dreamer-tiny.yaml", "caps.params=60k")
    output = "expected sizes that fit, found within 400 operations costed, got none so far"
    assert output in capsys.readouterr().err


def test_a_choice_of_what_to_recompute_says_where_it_gave_up(capsys, monkeypatch):
    monkeypatch.setattr("composer.costs.memory.recompute._BUDGET", 700)
    works("compile", ROOT / "specs" / "looped.yaml", "caps.train_memory=500MiB")
    expected = r"the choice stopped after \S+ operations costed: fewer may suffice"
    assert re.search(expected, capsys.readouterr().out)


def test_the_batch_that_ran_without_end(capsys):
    works("check", ROOT / "specs" / "dreamer-tiny.yaml", "train.batch_tokens=1000000000000")
    output = capsys.readouterr().err
    assert "caps.train_memory: expected at most 512 MiB" in output
    assert "train.batch_tokens 1000000000000 -> " in output


def test_the_lines_that_are_counted_are_those_that_run():
    def work(times: int) -> int:
        return len([each for each in range(times) if each >= 0])

    assert 100 < lines_of(lambda: work(100))[1] < 1000
    with pytest.raises(TooMuchWork):
        lines_of(lambda: work(10_000), 1000)
