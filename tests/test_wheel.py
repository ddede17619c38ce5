"""A wheel has everything that commands need, outside the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from cases import TINY

ROOT = Path(__file__).parents[1]
SPACE = """\
extends: tiny.yaml
name: space
model: {width: {choice: [8, 16]}}
search: {objectives: [{maximize: accuracy}], trials: 2}
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_commands_work_from_an_installed_wheel(tmp_path: Path) -> None:
    pytest.importorskip("setuptools", minversion="77")
    # a build leaves files beside what it builds
    source = tmp_path / "source"
    for name in ("blocks", "composer", "search"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build = [
        *pip,
        "wheel",
        "--no-deps",
        "--no-index",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
        str(source),
    ]
    subprocess.run(build, capture_output=True, check=True, timeout=180)
    (wheel,) = tmp_path.glob("*.whl")

    home = tmp_path / "env"
    venv.create(home, symlinks=True)
    (site,) = home.glob("lib/python*/site-packages")
    # what composer depends on; the paths in that folder's own .pth files, such as this checkout, are not read
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    install = [*pip, "--python", str(home / "bin/python"), "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, capture_output=True, check=True, timeout=180)

    work = tmp_path / "work"
    work.mkdir()
    (work / "tiny.yaml").write_text(TINY)
    (work / "space.yaml").write_text(SPACE)
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    for line in (
        "--version",
        "--help",
        "new dreamer --out dreamer.yaml",
        "check dreamer.yaml",
        "cost dreamer.yaml",
        "draw dreamer.yaml --out dreamer.html",
        "schema --out schema.json",
        "check space.yaml",
        "search space.yaml --dry-run",
        "search space.yaml --workers 1 --out found",
        "report found --out report.html",
    ):
        done = subprocess.run(
            [home / "bin/composer", *line.split()],
            cwd=work,
            env=env,
            capture_output=True,
            text=True,
            timeout=180,
        )
        assert done.returncode == 0, (line, done.stderr)
    assert (work / "dreamer.html").stat().st_size
    assert (work / "schema.json").stat().st_size
    assert "<style>" in (work / "report.html").read_text()
    where = subprocess.run(
        [home / "bin/python", "-c", "import composer, blocks, search; print(composer, blocks, search)"],
        cwd=work,
        env=env,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert where.stdout.count(str(site)) == 3
