"""`composer first-run`: bounded calls that go on, with few packages."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from composer.bench import first_run
from composer.bench.first_run import Ended, Job, jobs, read, run_jobs, tables
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
    lines = []
    assert run_jobs(asked, tmp_path, 120, lines.append, ROOT)
    assert read(tmp_path)["long"].how == "out of time"
    monkeypatch.setattr(first_run, "_STARTS", 0)
    assert not run_jobs([python("again", child, 60)], tmp_path, 1, lines.append, ROOT)
    assert read(tmp_path)["again"].how == "cut short"
    assert lines[-1].startswith("again: cut short after")
    assert run_jobs([python("again", "print(1)")], tmp_path, 120, lines.append, ROOT)
    assert read(tmp_path)["again"].how == "done"


@pytest.fixture
def calls(monkeypatch):
    """Run the jobs in calls of 9 minutes that are not waited for, each job for as long as `takes` says."""
    now = [0.0]
    monkeypatch.setattr(first_run.time, "monotonic", lambda: now[0])

    def run(asked, folder, takes):
        ran = []

        def stub(job, seconds, root):
            needs = takes(job)
            now[0] += min(needs, seconds)
            ran[-1].append(job.name)
            if job.file is not None:
                rows = (
                    []
                    if job.resumes
                    else {"machine": {}, "command": job.name, "parts": [], "finished": needs <= seconds}
                )
                job.file.write_text(json.dumps(rows))
            return Ended("done" if needs <= seconds else "out of time", seconds, "")

        monkeypatch.setattr(first_run, "_run", stub)
        for _ in range(6):
            ran.append([])
            if run_jobs(asked, folder, 540, lambda text: None, ROOT):
                break
        return ran

    return run


def test_thirty_minutes_in_calls_of_nine_are_enough_for_all_with_what_matters_most_first(calls, tmp_path):
    asked = jobs(tmp_path, ROOT)
    assert sum(job.seconds for job in asked) <= 30 * 60
    ran = calls(asked, tmp_path, lambda job: job.seconds)
    assert len(ran) == 4
    assert ran[0][:3] == ["doctor", "routing", "step"]
    assert {"depth", "tiles"} <= {*ran[1]}
    assert sorted(name for call in ran for name in call) == sorted(job.name for job in asked)
    assert all(each.how == "done" for each in read(tmp_path).values())


def test_what_a_job_wrote_is_kept_when_it_is_cut_short_and_runs_again(calls, tmp_path):
    (step,) = (job for job in jobs(tmp_path, ROOT) if job.name == "step")
    before = Job("before", (), 400)
    slow = replace(step, seconds=240)
    cut = calls([before, slow], tmp_path, lambda job: job.seconds)
    assert cut == [["before", "step"], ["step"]]
    kept = [json.loads((tmp_path / f"step{end}.json").read_text())["finished"] for end in ("-cut", "")]
    assert kept == [False, True]
    assert [*tables(tmp_path, [slow])].count("`step`: ") == 1
    (tmp_path / "step.json").unlink()
    assert [*tables(tmp_path, [slow])].count("`step`: ") == 1


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
    line = ["first-run", "--out", str(tmp_path / "out"), "--only", "loss", "--minutes", "4"]
    done = subprocess.run(
        [sys.executable, "-m", "composer", *line],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "loss: done" in done.stdout
    output = (tmp_path / "out" / "first-run.md").read_text()
    assert "| loss | done |" in output
    rows = json.loads((tmp_path / "out" / "loss.json").read_text())["parts"][0]["rows"]
    assert all(row["name"] in output for row in rows)


def test_a_job_that_has_not_run_is_said_to_be_missing(tmp_path):
    asked = jobs(tmp_path, ROOT)
    assert [job.name for job in asked][:3] == ["doctor", "routing", "step"]
    assert "tests" in {job.name for job in asked}
    assert "| doctor | not yet |  |" in [*tables(tmp_path, asked)]
