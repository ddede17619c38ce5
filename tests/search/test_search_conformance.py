"""Every sampler and store there is holds its conformance suite, and what does not hold is found by it."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
from postgresql import Server, missing

from composer.language.schema.samplers import samplers
from search.propose.sampler import find_sampler
from search.store.folder_store import FolderStore
from search.testing import samplers as of_samplers
from search.testing import stores as of_stores

ROOT = Path(__file__).parents[2]
OUTSIDE = Path(__file__).parent / "outside"
# GP is fitted anew for every point; its other checks have enough of them
SLOW = {("gp", "feasible and new"), ("gp", "seeds")}


CASES = [
    pytest.param(
        name,
        check,
        marks=[
            pytest.mark.skipif(find_sampler(name).missing, reason="not installed"),
            *[pytest.mark.slow] * ((name, check) in SLOW),
        ],
    )
    for name in samplers()
    for check in of_samplers.CHECKS
]


@pytest.mark.parametrize(("name", "check"), CASES)
def test_every_sampler_conforms(name, check):
    of_samplers.CHECKS[check](name)


@pytest.fixture(scope="module")
def server():
    server = Server()
    yield server
    server.remove()


@pytest.mark.parametrize("check", of_stores.CHECKS)
def test_a_folder_conforms(check, tmp_path):
    of_stores.CHECKS[check](of_stores.Place(tmp_path / "search", None))


@pytest.mark.skipif(bool(missing()), reason=missing())
@pytest.mark.parametrize("check", of_stores.CHECKS)
def test_a_database_conforms(check, tmp_path, server):
    of_stores.CHECKS[check](of_stores.Place(tmp_path / "search", server.url(f"conformance_{len(check)}")))


def test_a_store_without_a_lock_or_leases_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(FolderStore, "lock", lambda self: nullcontext())
    monkeypatch.setattr(FolderStore, "others", lambda self: set())
    for check in ("the lock", "leases"):
        with pytest.raises(AssertionError):
            of_stores.CHECKS[check](of_stores.Place(tmp_path / check, None))


def composer(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command beside a package that offers the samplers of `outside`."""
    package = folder / "other-1.0.dist-info"
    package.mkdir(exist_ok=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n", "utf-8")
    (package / "entry_points.txt").write_text(
        "[composer.samplers]\nlow = low:LOW\nseedless = low:SEEDLESS\n", "utf-8"
    )
    paths = os.pathsep.join(map(str, (folder, OUTSIDE, ROOT)))
    return subprocess.run(
        [sys.executable, "-m", "composer", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_a_sampler_of_another_package_is_named_by_spaces_and_conforms(tmp_path):
    done = composer(tmp_path, "conformance", "low", "--kind", "sampler")
    assert (done.returncode, done.stdout) == (0, "low: all 6 checks passed\n"), done.stderr
    done = composer(tmp_path, "check", "specs/space.yaml", "--set", "search.sampler=low")
    assert done.returncode == 0, done.stderr
    done = composer(tmp_path, "check", "specs/space.yaml", "--set", "search.sampler=lo")
    assert "low" in done.stderr


def test_a_sampler_that_ignores_its_seed_is_found(tmp_path):
    done = composer(tmp_path, "conformance", "seedless", "--kind", "sampler")
    assert done.returncode == 1
    assert "seedless: seeds: a sampler made anew proposes other points" in done.stdout
