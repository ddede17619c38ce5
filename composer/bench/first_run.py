"""Self-tests, benchmarks, GPU tests and tile tuning for a new GPU, in resumable calls of bounded time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from composer.settings.errors import UserError, os_message
from composer.training.folder.files import write_text

STATE = "first-run.json"
TABLES = "first-run.md"

_TESTS = ("tests/blocks", "tests/module", "tests/costs/test_peak.py", "tests/bench")
_TAIL = 4000
_STARTS = 20
"""Seconds that have to be left for a job to start at all."""
_DIES = 20


@dataclass(frozen=True)
class Job:
    """A process: its name, its command line after Python's, and the seconds it may take."""

    name: str
    arguments: tuple[str, ...]
    seconds: int


@dataclass(frozen=True)
class Ended:
    """How a job ended (exit code 0, another one, or its time limit), and the end of its output."""

    how: Literal["done", "failed", "out of time"]
    seconds: float
    output: str


def jobs(folder: Path, root: Path) -> list[Job]:
    """Return the jobs in order of importance; tests are among them where `root` has them."""

    def bench(part: str, seconds: int) -> Job:
        out = str(folder / f"{part}.json")
        return Job(part, ("-m", "composer", "bench", "--only", part, "--json", out), seconds)

    found = [
        Job("doctor", ("-m", "composer", "doctor"), 180),
        bench("depth", 180),
        bench("step", 300),
        bench("routing", 120),
    ]
    if all((root / each).exists() for each in _TESTS) and find_spec("pytest"):
        spread = ("-n", "8") if find_spec("xdist") else ()
        line = ("-m", "pytest", *_TESTS, "-m", "gpu", "-q", "-p", "no:cacheprovider", *spread)
        found.append(Job("tests", line, 480))
    found += [bench("attention", 90), bench("loss", 90), bench("kernels", 180)]
    return [*found, Job("tiles", ("-m", "composer", "bench", "--tune"), 480)]


def run_jobs(
    asked: Sequence[Job], folder: Path, seconds: float, report: Callable[[str], None], root: Path
) -> bool:
    """Run the jobs that have not ended yet, within a number of seconds; return whether none is left.

    A job that the end of this call interrupts starts again in the next one. The record is written after each
    job.

    Raises:
        UserError: the folder's record cannot be read or written.
    """
    ended, until = read(folder), time.monotonic() + seconds
    for job in asked:
        if job.name in ended:
            continue
        left = until - time.monotonic()
        if left < _STARTS:
            return False
        report(f"{job.name}: up to {min(job.seconds, left):.0f} s")
        result = _run(job, min(job.seconds, left), root)
        if result.how == "out of time" and left < job.seconds:
            report(f"{job.name}: no time left in this call")
            return False
        ended[job.name] = result
        report(f"{job.name}: {result.how} after {result.seconds:.0f} s")
        _write(folder, ended)
    return True


def read(folder: Path) -> dict[str, Ended]:
    """Return how the jobs of a folder ended, by name; none where it is new.

    Raises:
        UserError: its record is not one of ours.
    """
    path = folder / STATE
    try:
        plain = json.loads(path.read_text("utf-8"))
        return {name: Ended(**each) for name, each in plain["jobs"].items()}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UserError(os_message(error, path)) from None
    except (ValueError, TypeError, KeyError, AttributeError):
        raise UserError(f"{path}: expected the record of a first run, got something else") from None


def tables(folder: Path, asked: Sequence[Job]) -> Iterator[str]:
    """Yield Markdown: how each job ended, then the rows of each part of the benchmark."""
    ended = read(folder)
    yield "| job | ended | seconds |"
    yield "| --- | --- | --- |"
    for job in asked:
        known = ended.get(job.name)
        cells = f"{known.how} | {known.seconds:.0f}" if known else "not yet | "
        yield f"| {job.name} | {cells} |"
    for job in asked:
        path = folder / f"{job.name}.json"
        if path.exists():
            yield from _part(json.loads(path.read_text("utf-8")))


def _part(measured: Mapping[str, Any]) -> Iterator[str]:
    yield ""
    machine = ", ".join(f"{name} {value}" for name, value in measured["machine"].items())
    yield f"`{measured['command']}`: {machine}"
    for part in measured["parts"]:
        yield ""
        yield "| case | task | contestant | ms | of floor | time against | goals |"
        yield "| --- | --- | --- | --- | --- | --- | --- |"
        for row in part["rows"]:
            goals = "; ".join(
                f"{each['text']}: {'met' if each['met'] else 'missed'} ({each['got']:.3g})"
                for each in row["goals"]
            )
            cells = (
                f"{1e3 * row['seconds']:.4g}" if row["seconds"] else row["note"],
                f"{row['share']:.0%}" if row["share"] else "",
                f"{row['against'][0]:.2f}x" if row["against"] else "",
                goals,
            )
            yield f"| {row['case']} | {row['task']} | {row['name']} | {' | '.join(cells)} |"


def _run(job: Job, seconds: float, root: Path) -> Ended:
    begun = time.monotonic()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])}
    process = subprocess.Popen(
        [sys.executable, *job.arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=root,
        env=environment,
        # its workers end with it
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=seconds)
        how: Literal["done", "failed", "out of time"] = "failed" if process.returncode else "done"
    except subprocess.TimeoutExpired:
        _kill(process)
        output, _ = process.communicate(timeout=_DIES)
        how = "out of time"
    except BaseException:
        _kill(process)
        raise
    return Ended(how, round(time.monotonic() - begun, 1), output[-_TAIL:])


def _kill(process: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _write(folder: Path, ended: Mapping[str, Ended]) -> None:
    path = folder / STATE
    plain = {name: asdict(each) for name, each in ended.items()}
    try:
        write_text(path, json.dumps({"schema": 1, "jobs": plain}, indent=1) + "\n")
    except OSError as error:
        raise UserError(os_message(error, path, writing=True)) from None
