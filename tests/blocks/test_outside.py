"""A block of somebody else's package: run by one command, and refused where it is not as it says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from composer.cli.main import main

ROOT = Path(__file__).parents[2]
OUTSIDE = Path(__file__).parent / "outside"
EXPECTED = {
    "wrong_flops": "FLOPs",
    "wrong_saved": "saved bytes",
    "wrong_workspace": "peak memory",
    "wrong_precision": "shapes, precisions and inputs",
    "wrong_shape": "parameters",
    "looks_ahead": "causality",
    "loses_gradient": "gradients",
    "fails_at_one": "sizes of one",
    "remembers": "nothing left between passes",
    "unlike_reference": "kernels equal references",
    "writes_input": "shapes, precisions and inputs",
}
# all are made known before a spec is loaded
SCRIPT = f"""
import json
from composer.testing.find import find_block
names = ["Mixing", "Ranked", *{list(EXPECTED)}]
found = {{name: find_block("mixers:" + name) for name in names}}
from composer.testing.run import conformance
faults = {{name: {{f.check: f.fault for f in conformance(found[name]) if f.fault}} for name in names}}
print(json.dumps(faults))
"""


def run(*arguments: str, cwd: Path = OUTSIDE) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=300
    )


@pytest.fixture(scope="module")
def findings() -> dict[str, dict[str, str]]:
    done = run("-c", SCRIPT)
    assert done.returncode == 0, done.stderr
    report: dict[str, dict[str, str]] = json.loads(done.stdout)
    return report


@pytest.mark.parametrize("name", ["Mixing", "Ranked"])
def test_a_block_that_is_as_it_says_holds_everything(findings, name):
    assert findings[name] == {}


@pytest.mark.parametrize("name", EXPECTED)
def test_what_is_not_as_declared_is_found(findings, name):
    assert EXPECTED[name] in findings[name]


def test_one_command_runs_it_on_a_class_or_a_folder(tmp_path):
    done = run("-m", "composer", "conformance", "mixers:Mixing")
    assert (done.returncode, done.stdout) == (0, "mixing: all 12 checks passed\n"), done.stderr
    folder = tmp_path / "ahead"
    folder.mkdir()
    text = (OUTSIDE / "mixers.py").read_text(encoding="utf-8")
    (folder / "mixers.py").write_text(text, encoding="utf-8")
    (folder / "__init__.py").write_text(
        f"import sys\nsys.path.append({str(folder)!r})\nfrom mixers import looks_ahead\n", encoding="utf-8"
    )
    done = run("-m", "composer", "conformance", str(folder), cwd=tmp_path)
    assert done.returncode == 1
    assert "looks_ahead: causality: token " in done.stdout


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "or a folder, got 'nothing'"),
        ("mixers:shift", "expected a subclass of BlockConfig, got shift"),
        ("nowhere:Mixing", "nowhere: cannot be imported"),
    ],
)
def test_a_block_that_is_not_there_is_told(name, message, monkeypatch, capsys):
    monkeypatch.chdir(OUTSIDE)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert main(["conformance", name]) == 2
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())
