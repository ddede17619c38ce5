"""The commands that let one read specs: diff, draw, and show on a terminal."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from composer.cli.main import main
from composer.costs.base.units import count_text
from composer.costs.counting.plan import count
from composer.language.description.show import changed_yaml, resolved_yaml
from composer.language.load import load, loads

SPECS = Path(__file__).parents[2] / "specs"
DREAMER, RECURRENT = str(SPECS / "dreamer-tiny.yaml"), str(SPECS / "recurrent-tiny.yaml")


def ran(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    code = main(arguments)
    out, err = capsys.readouterr()
    assert (code, err) == (0, "")
    return out


def test_diff_says_first_how_specs_relate_then_what_differs_then_what_it_costs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = ran(capsys, "diff", DREAMER, RECURRENT).splitlines()
    assert lines[0] == "dreamer-tiny and recurrent-tiny: different architectures, trained alike"
    assert lines[1:5] == [
        "",
        "architecture",
        "  stages.0.step: depth removed between seq and expert",
        "  expert: experts 12 -> 8, hidden 32 -> 56",
    ]
    params = next(line.split() for line in lines if line.startswith(" params"))
    a, b = count(load(DREAMER)).params, count(load(RECURRENT)).params
    assert params[1:] == ["69.1k", "72k", f"{100 * (b / a - 1):+.3g}", "%"]
    assert any(re.match(r" depth_cache_bytes +768 B +0 B +-100 %", line) for line in lines)


def test_diff_of_a_spec_with_itself_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert ran(capsys, "diff", DREAMER, DREAMER) == "dreamer-tiny and dreamer-tiny: the same spec\n"
    assert ran(capsys, "diff", DREAMER) == "dreamer-tiny and dreamer-tiny: the same spec\n"


def test_diff_lays_options_over_the_second_spec(capsys: pytest.CaptureFixture[str]) -> None:
    out = ran(capsys, "diff", DREAMER, "--set", "train.lr=5e-3")
    assert out.startswith(
        "dreamer-tiny and dreamer-tiny: the same architecture, differing only in training\n"
    )
    assert "  train.lr 1e-2 -> 5e-3\n" in out


def test_diff_as_json_holds_exact_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    output: dict[str, Any] = json.loads(ran(capsys, "diff", DREAMER, RECURRENT, "--json"))
    a, b = count(load(DREAMER)), count(load(RECURRENT))
    assert [spec["name"] for spec in output["specs"]] == ["dreamer-tiny", "recurrent-tiny"]
    assert {each["kind"] for each in output["differences"]} == {"architecture", "names"}
    for name in ("params", "active_params", "train_flops", "train_memory", "cache_bytes_per_token"):
        assert (output["measures"][name]["a"], output["measures"][name]["b"]) == (
            a.measure(name),
            b.measure(name),
        )
    terms = output["measures"]["train_memory"]["terms"]
    assert {name: each["a"] for name, each in terms.items()} == a.train_memory.terms
    assert output["measures"]["flops_per_token"]["terms"]["backward"]["b"] == b.flops_per_token.backward
    # of the blocks those that both have
    assert output["blocks"].keys() == {"model", "seq", "expert"}
    assert output["blocks"]["expert"]["forward"]["b"] == b.by_block["expert"].forward


def test_costs_of_several_specs_are_one_table(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "same.yaml").write_text(Path(DREAMER).read_text())
    files = (DREAMER, RECURRENT, str(tmp_path / "same.yaml"))
    rows = ran(capsys, "cost", *files, "--set", "model.width=24").strip().splitlines()[-3:]
    costs = [count(load(file, ["model.width=24"])) for file in files]
    shown = [(row.split()[0], row.split()[1]) for row in rows]
    names = (DREAMER, "recurrent-tiny", files[2])
    assert shown == [(name, count_text(each.params)) for name, each in zip(names, costs, strict=True)]
    by_file = json.loads(ran(capsys, "cost", *files, "--set", "model.width=24", "--json"))
    assert {file: each["params"] for file, each in by_file.items()} == dict(
        zip(files, (each.params for each in costs), strict=True)
    )


def test_draw_prints_or_writes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    printed = ran(capsys, "draw", DREAMER)
    assert ElementTree.fromstring(printed).tag.endswith("svg")
    assert ran(capsys, "draw", DREAMER, "--out", str(tmp_path / "a.svg")) == ""
    assert ran(capsys, "draw", DREAMER, "--out", str(tmp_path / "a.html")) == ""
    assert (tmp_path / "a.svg").read_text(encoding="utf-8") == printed
    assert (tmp_path / "a.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.html", "a.svg"]
    assert ">\u00d73<" in ran(capsys, "draw", DREAMER, "--set", "stages.0.recur=3")


@pytest.mark.parametrize("name", ["dreamer-tiny", "nested", "looped"])
def test_show_stands_out_on_a_terminal_only(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = load(SPECS / f"{name}.yaml")
    plain = ran(capsys, "show", str(SPECS / f"{name}.yaml"))
    assert plain == resolved_yaml(spec)
    assert loads(plain) == spec
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    output = ran(capsys, "show", str(SPECS / f"{name}.yaml"))
    assert re.sub(r"\x1b\[[\d;]*m", "", output) == plain
    bold = {line for line in plain.splitlines() if f"\x1b[1m{line}\x1b[0m" in output}
    dim = {line for line in plain.splitlines() if f"\x1b[2m{line}\x1b[0m" in output}
    assert "    rope: true" in dim
    assert f"name: {name}" in bold
    assert not bold & dim


def test_show_changed_leaves_the_defaults_out(capsys: pytest.CaptureFixture[str]) -> None:
    out = ran(capsys, "show", DREAMER, "--changed")
    assert out == changed_yaml(load(DREAMER))
    assert loads(out) == load(DREAMER)
    assert "rope" not in out
    assert "  batch_tokens: 2400\n" in out
