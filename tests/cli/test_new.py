"""Starter specs: valid, within their caps, explained, trainable, and never written over a file."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from composer.cli.commands.new import STARTERS
from composer.cli.main import main
from composer.language.description.show import resolved_yaml
from composer.language.space import load_space

STEP = ("train.tokens=2k", "train.batch_tokens=96", "train.eval.tokens=96")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_there_is_a_starter_of_each_kind() -> None:
    assert set(STARTERS) == {"dreamer", "looped", "space", "transformer"}


@pytest.mark.parametrize("kind", STARTERS)
def test_a_starter_is_valid_within_its_caps_and_trains(
    kind: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "mine.yaml"
    assert main(["new", kind]) == 0
    text = capsys.readouterr().out
    assert main(["new", kind, "--out", str(path)]) == 0
    assert path.read_text() == text
    assert main(["check", str(path)]) == 0
    assert "caps" in yaml.safe_load(text)
    if kind == "space":
        assert main(["search", str(path), "--dry-run"]) == 0
        path.write_text(resolved_yaml(load_space(str(path)).example().spec))
    assert main(["cost", str(path)]) == 0
    options = [word for setting in STEP for word in ("--set", setting)]
    assert main(["train", str(path), *options, "--out", "run"]) == 0


@pytest.mark.parametrize("kind", STARTERS)
def test_every_section_and_field_has_a_comment(kind: str) -> None:
    lines = STARTERS[kind].read_text().splitlines()
    headings = (
        "model:",
        "train:",
        "search:",
        "  data:",
        "    type:",
        "    kv_heads:",
        "    heads:",
        "blocks:",
    )
    bare = [
        line
        for before, line in zip(["", *lines], lines, strict=False)
        if line.strip() and "#" not in line and "#" not in before and not line.startswith(headings)
    ]
    assert [line for line in bare if not line.startswith(("    task:", "  params:", "        "))] == []


def test_a_file_is_replaced_only_by_force(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("precious")
    assert main(["new", "dreamer", "--out", "mine.yaml"]) == 1
    assert "mine.yaml exists" in capsys.readouterr().err
    assert path.read_text() == "precious"
    assert main(["new", "dreamer", "--out", "mine.yaml", "--force"]) == 0
    assert path.read_text() == STARTERS["dreamer"].read_text()
    assert [each.name for each in tmp_path.iterdir()] == ["mine.yaml"]


@pytest.mark.parametrize("line", ["new", "new nothing", "new dreamer --force", "new dreamer looped"])
def test_wrong_usage_ends_with_2(line: str) -> None:
    assert main(line.split()) == 2
