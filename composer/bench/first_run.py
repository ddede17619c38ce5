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
from dataclasses import asdict, dataclass, replace
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
_HALF = 0.5
"""The share of its time limit from which a job that does not fit into a call starts nevertheless."""
_DIES = 20


@dataclass(frozen=True)
class Job:
    """A process: its name, its command line after Python's, and the seconds it may take.

    Attributes:
        file: the JSON file that it writes after each result, if any.
        resumes: whether it goes on from its file.
    """

    name: str
    arguments: tuple[str, ...]
    seconds: int
    file: Path | None = None
    resumes: bool = False


@dataclass(frozen=True)
class Ended:
    """How a job ended, and the end of its output.

    Exit code 0, another one, its time limit, or that of the call, in which case it starts again.
    """

    how: Literal["done", "failed", "out of time", "cut short"]
    seconds: float
    output: str


def jobs(folder: Path, root: Path) -> list[Job]:
    """Return the jobs in order of importance; tests are among them where `root` has them."""

    def bench(part: str, seconds: int) -> Job:
        out = folder / f"{part}.json"
        return Job(part, ("-m", "composer", "bench", "--only", part, "--json", str(out)), seconds, out)

    tiles = folder / "tiles.json"
    tune = ("-m", "composer", "bench", "--tune", "--json", str(tiles))
    jobs = [
        Job("doctor", ("-m", "composer", "doctor"), 120),
        # whether our own grouped product is faster than torch's, and then what a whole step takes
        bench("routing", 90),
        bench("step", 240),
        bench("depth", 150),
        Job("tiles", tune, 240, tiles, resumes=True),
        bench("graph", 120),
    ]
    if all((root / each).exists() for each in _TESTS) and find_spec("pytest"):
        spread = ("-n", "8") if find_spec("xdist") else ()
        line = ("-m", "pytest", *_TESTS, "-m", "gpu", "-q", "-p", "no:cacheprovider", *spread)
        jobs.append(Job("tests", line, 420))
    rest = {"attention": 90, "loss": 90, "kernels": 150, "options": 90}
    return [*jobs, *(bench(part, seconds) for part, seconds in rest.items())]


def run_jobs(
    asked: Sequence[Job],
    folder: Path,
    seconds: float,
    report: Callable[[str], None],
    root: Path,
    done: Callable[[], None] = lambda: None,
) -> bool:
    """Run the jobs that have not ended yet, within a number of seconds; return whether none is left.

    Next is the first job whose time limit fits into what is left of the call. A job that the end of the call
    cuts short starts again in a later one; what it wrote is kept. The record is written, and `done` called,
    after each job.

    Raises:
        UserError: the folder's record cannot be read or written.
    """
    until, begun = time.monotonic() + seconds, False
    while pending := _pending(asked, read(folder)):
        left = until - time.monotonic()
        job = _next(pending, left, begun)
        if job is None:
            return False
        report(f"{job.name}: up to {min(job.seconds, left):.0f} s")
        _set_aside(job)
        begun, result = True, _run(job, min(job.seconds, left), root)
        if result.how == "out of time" and left < job.seconds:
            result = replace(result, how="cut short")
        report(f"{job.name}: {result.how} after {result.seconds:.0f} s")
        _write(folder, {**read(folder), job.name: result})
        done()
        if result.how == "cut short":
            return False
    return True


def _pending(asked: Sequence[Job], known: Mapping[str, Ended]) -> list[Job]:
    ended = {name for name, each in known.items() if each.how != "cut short"}
    return [job for job in asked if job.name not in ended]


def _next(pending: Sequence[Job], left: float, begun: bool) -> Job | None:
    """Return the job to run in the seconds left, or None; the first job of a call need not fit."""
    if left < _STARTS:
        return None
    fits = next((job for job in pending if job.seconds <= left), None)
    first = pending[0]
    worth = not begun or first.resumes or left >= _HALF * first.seconds
    return fits or (first if worth else None)


def _set_aside(job: Job) -> None:
    """Keep what a job wrote before it was cut short, until it has written more."""
    if job.file is not None and job.file.exists() and not job.resumes:
        job.file.replace(_cut(job.file))


def _cut(file: Path) -> Path:
    return file.with_stem(f"{file.stem}-cut")


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
        if job.file is None:
            continue
        if job.resumes:
            yield from _tiles(job.file)
            continue
        measured = [_read(path) for path in (job.file, _cut(job.file)) if path.exists()]
        for each in measured[:1] if measured and measured[0]["finished"] else measured:
            yield from _part(each)


def _read(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def _tiles(path: Path) -> Iterator[str]:
    if not path.exists():
        return
    yield ""
    yield f"Tiles; `git apply {path.with_suffix('.patch').name}` puts the faster ones into their tables."
    yield ""
    yield "| table | shape | tile | times as fast | right |"
    yield "| --- | --- | --- | --- | --- |"
    for row in _read(path):
        right = f"{row['right']} of {row['tried']}" if row["right"] else "**wrong as it is**"
        yield f"| {row['table']} | {row['shape']} | {row['tile']} | {row['faster']:.2f} | {right} |"


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
