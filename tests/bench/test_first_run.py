"""`composer first-run`: bounded calls that go on, with few packages."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from composer.bench import first_run
from composer.bench.first_run import Job, jobs, read, run_jobs, tables
from composer.settings.errors import UserError

ROOT = Path(__file__).parents[2]


def python(name, code, seconds=60):
    return Job(name, ("-c", code), seconds)


def test_jobs_that_have_ended_are_not_run_again_and_later_ones_are(tmp_path):
    note = f"open({str(tmp_path / 'runs')!r}, 'a').write('{{}}')"
    asked = [python("one", note.format(1)), python("two", note.format(2) + "; raise SystemExit(3)")]
    assert run_jobs(asked, tmp_path, 120, lambda text: None, ROOT)
    asked.append(python("three", note.format(3)))
    assert run_jobs(asked, tmp_path, 120, lambda text: None, ROOT)
    assert (tmp_path / "runs").read_text() == "123"
    assert {name: each.how for name, each in read(tmp_path).items()} == {
        "one": "done",
        "two": "failed",
        "three": "done",
    }


def test_a_job_at_its_limit_is_ended_with_its_children_and_one_without_time_left_is_run_again(
    tmp_path, monkeypatch
):
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(300)'])"
    asked = [python("long", child, 1), python("later", "print(1)")]
    told = []
    assert run_jobs(asked, tmp_path, 120, told.append, ROOT)
    assert read(tmp_path)["long"].how == "out of time"
    monkeypatch.setattr(first_run, "_STARTS", 0)
    assert not run_jobs([python("again", child, 60)], tmp_path, 1, told.append, ROOT)
    assert "again" not in read(tmp_path)
    assert told[-1] == "again: no time left in this call"


def test_a_record_of_something_else_is_refused_with_its_path(tmp_path):
    (tmp_path / "first-run.json").write_text("[]")
    with pytest.raises(UserError, match=r"first-run\.json: expected the record of a first run"):
        read(tmp_path)


def test_it_runs_without_the_packages_of_searches_and_writes_tables(tmp_path):
    missing = tmp_path / "missing"
    missing.mkdir()
    for name in ("optuna", "jsonschema", "alembic", "mako", "sqlalchemy", "colorlog", "hypothesis"):
        (missing / f"{name}.py").write_text(f"raise ImportError({name!r})")
    env = {**os.environ, "PYTHONPATH": f"{missing}:{ROOT}", "OMP_NUM_THREADS": "1"}
    line = ["first-run", "--out", str(tmp_path / "out"), "--only", "attention", "--minutes", "4"]
    done = subprocess.run(
        [sys.executable, "-m", "composer", *line],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "attention: done" in done.stdout
    told = (tmp_path / "out" / "first-run.md").read_text()
    assert "| attention | done |" in told
    rows = json.loads((tmp_path / "out" / "attention.json").read_text())["parts"][0]["rows"]
    assert all(row["name"] in told for row in rows)


def test_a_job_that_has_not_run_is_said_to_be_missing(tmp_path):
    asked = jobs(tmp_path, ROOT)
    assert [job.name for job in asked][:3] == ["doctor", "depth", "step"]
    assert "tests" in {job.name for job in asked}
    assert "| doctor | not yet |  |" in [*tables(tmp_path, asked)]
