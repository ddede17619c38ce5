"""The block of CONTRIBUTING.md works as written: found, checked, costed, built, proved like the others."""

from __future__ import annotations

import json
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
EACH = """
import contextlib, contributed, io, json, sys
from composer.cli.main import main
done = []
for command in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as error:
        done.append((main(command), out, error))
print(json.dumps([(code, out.getvalue(), error.getvalue()) for code, out, error in done]))
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


def composer(house: Path, *commands: str) -> list[tuple[int, str, str]]:
    """Run several commands in one process: the exit code, output and errors of each."""
    done = run(house, "-c", EACH, json.dumps([command.split() for command in commands]))
    assert done.returncode == 0, done.stderr
    return [tuple(each) for each in json.loads(done.stdout)]


def test_the_page_holds_the_whole_folder() -> None:
    names = {path.split("/")[-1] for path in FILES}
    assert names == {"__init__.py", "config.py", "operations.py", "reference.py", "test_shift_mixing.py"}


def test_check_cost_plan_and_schema_know_the_block(house: Path) -> None:
    commands = [f"{name} spec.yaml" for name in ("check", "cost", "cost --json", "compile", "draw")]
    checked, costs, numbers, plan, drawn, schema = composer(house, *commands, "schema")
    assert (checked[0], checked[2]) == (0, "")
    assert "2 steps of [mix, mlp] with shared weights" in checked[1]
    # 16 shares and a 16 x 16 projection
    assert "mix" in costs[1]
    assert '"params": 272,' in numbers[1]
    assert re.search(r"0\.mix\.shift +16 +share 16 +shift +elementwise", plan[1])
    assert (drawn[0], drawn[2]) == (0, "")
    assert ">shift mixing</text>" in drawn[1]
    assert ">reach 3</text>" in drawn[1]
    assert "How many tokens back the other input is." in schema[1]


def test_errors_know_the_block_and_its_fields(house: Path) -> None:
    wrong_type, wrong_field = composer(
        house,
        "check spec.yaml --set blocks.mix.type=shift_mixin",
        "check spec.yaml --set blocks.mix.reech=2",
    )
    assert wrong_type[0] == 1
    assert "did you mean shift_mixing?" in wrong_type[2]
    assert "did you mean reach?" in wrong_field[2]


def test_it_passes_its_own_tests_and_those_of_every_block(house: Path) -> None:
    shared = str(ROOT / "tests" / "blocks" / "test_conformance.py")
    plugins = ["-p", "contributed", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml")]
    done = run(house, "-m", "pytest", "-q", *plugins, "-k", "shift_mixing", "tests", shared)
    assert done.returncode == 0, done.stdout + done.stderr
    # its own, and each of the suite at a reach of 1 or of 2, under --full at both
    assert int(re.findall(r"(\d+) passed", done.stdout)[0]) >= 1 + 11


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
