"""Every model of docs/coverage.md is a spec that `composer check` accepts, and has a paper to it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from composer.cli.main import main

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "coverage.md").read_text(encoding="utf-8")
MODELS = re.findall(r"^### (.*?)\n(.*?)```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_every_heading_has_a_snippet_and_every_name_is_another() -> None:
    assert len(MODELS) == len(re.findall(r"^### ", PAGE, re.MULTILINE)) >= 12
    assert len({re.search(r"^name: (.*)$", text, re.MULTILINE)[1] for *_, text in MODELS}) == len(MODELS)  # type: ignore[index]


@pytest.mark.parametrize(("model", "message", "text"), MODELS, ids=[model for model, *_ in MODELS])
def test_a_model_is_a_spec_that_check_accepts(
    model: str, message: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (ROOT / "specs").glob("*.yaml"):
        shutil.copy(path, tmp_path)
    (tmp_path / "model.yaml").write_text(text)
    assert main(["check", str(tmp_path / "model.yaml")]) == 0, capsys.readouterr().err
    assert "https://arxiv.org/abs/" in message
