"""The block of CONTRIBUTING.md works as written: found, checked, costed, built, proved like the others."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
FILES = dict(
    re.findall(r"^`((?:blocks|tests)/[\w/.]+)`\n\n```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
)
SPEC = """\
schema: 1
name: shifted
model: {width: 16, vocab: 11, context: 12}
blocks:
  mix: {type: shift_mixing, reach: 3}
  mlp: {type: feed_forward, hidden: 24}
stages:
  - recur: 2
    step: [mix, mlp]
"""


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """The tree with one folder more, as a plugin that puts it there; `spec.yaml` uses the block."""
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (tmp_path / "contributed.py").write_text(
        f"import sys\nimport blocks\nblocks.__path__.append({str(tmp_path / 'blocks')!r})\n"
        f"sys.path.insert(0, {str(ROOT / 'tests/helpers')!r})\n"
    )
    (tmp_path / "spec.yaml").write_text(SPEC)
    return tmp_path


def run(house: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(house), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, cwd=house, env=environment, capture_output=True, text=True, check=False, timeout=300
    )


def composer(house: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    code = "import sys, contributed; from composer.cli.main import main; sys.exit(main())"
    return run(house, "-c", code, *arguments)


def test_the_page_holds_the_whole_folder() -> None:
    names = {path.split("/")[-1] for path in FILES}
    assert names == {"__init__.py", "config.py", "operations.py", "reference.py", "test_shift_mixing.py"}


def test_check_cost_plan_and_schema_know_the_block(house: Path) -> None:
    checked = composer(house, "check", "spec.yaml")
    assert (checked.returncode, checked.stderr) == (0, "")
    assert "2 steps of [mix, mlp] with shared weights" in checked.stdout
    # 16 shares and a 16 x 16 projection
    assert "mix" in composer(house, "cost", "spec.yaml").stdout
    assert '"params": 272,' in composer(house, "cost", "spec.yaml", "--json").stdout
    assert re.search(
        r"0\.mix\.shift +16 +share 16 +shift +elementwise", composer(house, "compile", "spec.yaml").stdout
    )
    drawn = composer(house, "draw", "spec.yaml")
    assert (drawn.returncode, drawn.stderr) == (0, "")
    assert ">shift mixing</text>" in drawn.stdout
    assert ">reach 3</text>" in drawn.stdout
    assert "How many tokens back the other input is." in composer(house, "schema").stdout


def test_errors_know_the_block_and_its_fields(house: Path) -> None:
    wrong = composer(house, "check", "spec.yaml", "--set", "blocks.mix.type=shift_mixin")
    assert wrong.returncode == 1
    assert "did you mean shift_mixing?" in wrong.stderr
    wrong = composer(house, "check", "spec.yaml", "--set", "blocks.mix.reech=2")
    assert "did you mean reach?" in wrong.stderr


def test_it_passes_its_own_tests_and_those_of_every_block(house: Path) -> None:
    shared = str(ROOT / "tests" / "blocks" / "test_conformance.py")
    plugins = ["-p", "contributed", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml")]
    done = run(house, "-m", "pytest", "-q", *plugins, "-k", "shift_mixing", "tests", shared)
    assert done.returncode == 0, done.stdout + done.stderr
    # its own, and each of the suite at a reach of 1 and of 2
    assert int(re.findall(r"(\d+) passed", done.stdout)[0]) >= 1 + 2 * 11


def test_the_tests_of_the_language_take_it_in(house: Path) -> None:
    plugins = ["-p", "contributed", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml")]
    differences = str(ROOT / "tests" / "language" / "test_diff.py")
    done = run(house, "-m", "pytest", "-q", *plugins, "-k", "any_field or every_section", differences)
    assert done.returncode == 0, done.stdout + done.stderr


def test_its_files_are_in_the_style_of_the_house(house: Path) -> None:
    settings = ["--config", str(ROOT / "pyproject.toml"), "--no-cache"]
    for command in (["check"], ["format", "--check"]):
        done = run(house, "-m", "ruff", *command, *settings, *FILES)
        assert done.returncode == 0, done.stdout + done.stderr
