"""Building a folder of tokenized data: planned, made in parts by workers, put together, named by a manifest.

A build that was stopped or killed goes on where it was: parts are there whole or not at all, and shards
count only once the manifest, written last, names them. A build that was refused goes on with any other
command, from the parts that this command needs too. Data that are replaced stay until the new ones are
certain to be accepted.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from composer.data.base.errors import DataError, Interrupted
from composer.data.base.split import EVAL, TRAIN
from composer.data.building.assemble import Dropped, choose, write_shards
from composer.data.building.base.source import Options, Unit
from composer.data.building.find import find_units, formats
from composer.data.building.parts import largest_token, make_part, part_folder
from composer.data.building.tokenizing import Tokenizer, describe, one_thread, tokenizer_path
from composer.data.tokens.manifest import MANIFEST, Manifest, SplitData, read_manifest
from composer.settings.errors import listed, os_message
from composer.training.folder.files import locked, replacing, write_text

WORK = ".build"
_PLAN = "plan.json"
_LATER = ("eval_fraction", "dedupe", "shard_tokens")
"""The options that matter only once all parts are there."""


@dataclass(frozen=True)
class Progress:
    """How far a build is: bytes of sources, those done before it went on included."""

    done: int
    total: int
    seconds: float
    new: int

    @property
    def seconds_left(self) -> float | None:
        """At the speed so far; None at the beginning."""
        return self.seconds / self.new * (self.total - self.done) if self.new else None


@dataclass(frozen=True)
class Sources:
    """What to build from.

    Attributes:
        train: files, folders or `hf:` names, whose documents are divided into train and eval.
        held_out: the name of each further held-out set, and its source.
        glob: which files of folders.
    """

    train: Sequence[str]
    held_out: Sequence[tuple[str, str]] = ()
    glob: str | None = None


def build(
    sources: Sources,
    out: Path,
    options: Options,
    workers: int = 1,
    force: bool = False,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Manifest:
    """Build data in the folder `out`, or go on building them.

    Raises:
        DataError: a source cannot be used; the folder has data, or an unfinished build of others; or there
            are too few documents.
    """
    if not force and os.path.exists(out / MANIFEST):
        raise DataError(f"{out} has data already; choose another --out, or replace them with --force")
    units = [*_units(sources, options)]
    kinds = {formats()[unit.format].tokens for unit in units}
    if len(kinds) > 1:
        named = listed(sorted({unit.format for unit in units}), "and")
        raise DataError(
            f"sources are either text or tokens, got {named}; choose files with --glob or --format"
        )
    known = describe(options, tokens=kinds == {True})
    try:
        with _alone(out) as work:
            if not force and (out / MANIFEST).exists():  # another build may have ended meanwhile
                raise DataError(f"{out} has data already, of a build that ended meanwhile")
            _keep_plan(work, units, options, known, force)
            with _marked(work):
                _make_parts(work, units, options, known, workers, report)
                manifest = _finish(out, work, units, options, known)
            shutil.rmtree(work)
    except OSError as error:
        raise DataError(os_message(error, error.filename or out, writing=True)) from error
    return manifest


@contextmanager
def _locked(lock: Path, out: Path) -> Iterator[None]:
    """Hold the lock of a build, where one that ends may remove the folder at any time."""
    with ExitStack() as stack:
        while True:
            lock.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):
                stack.enter_context(
                    locked(lock, lambda pid: DataError(f"{out}: process {pid} is building data there"))
                )
                if lock.exists():
                    break
            stack.close()
        yield


@contextmanager
def _alone(out: Path) -> Iterator[Path]:
    """Make the folder of parts and hold it; where no part was finished, nothing is left of it."""
    work, new = out / WORK, not os.path.exists(out)
    with _locked(work / "lock", out):
        try:
            yield work
        except BaseException:
            if not any(work.glob("part-??????")):
                shutil.rmtree(work, ignore_errors=True)
                if new:
                    with suppress(OSError):
                        out.rmdir()
            raise


def _remove_data(out: Path) -> None:
    """Remove the manifest and all shards, which count for nothing without it."""
    for file in (out / MANIFEST, *out.glob("*.tokens"), *out.glob("*.documents")):
        file.unlink(missing_ok=True)


def _units(sources: Sources, options: Options) -> Iterator[Unit]:
    for source in sources.train:
        yield from find_units(source, options, sources.glob if Path(source).is_dir() else None)
    for name, source in sources.held_out:
        if name == TRAIN:
            raise DataError(f"--eval {name}={source}: choose another name than {TRAIN} for a held-out set")
        yield from find_units(source, options, split=name)


@contextmanager
def _marked(work: Path) -> Iterator[None]:
    """Mark a build that is refused: the same command would be refused again, so any other may go on."""
    try:
        yield
    except Interrupted:
        raise
    except DataError:
        plan = json.loads((work / _PLAN).read_bytes())
        write_text(work / _PLAN, json.dumps(plan | {"refused": True}, indent=1))
        raise


def _keep_plan(work: Path, units: Sequence[Unit], options: Options, known: Tokenizer, force: bool) -> None:
    """Write down what is built, and refuse to go on with parts of something else.

    Parts of files that were changed since are made again. After a build that was refused, or by force, so
    are all parts that would differ.
    """
    # parts hold all documents, whatever split these go to
    states = [[*unit[:-1], os.stat(unit.path).st_mtime_ns] for unit in units]
    needed = {key: value for key, value in asdict(options).items() if key not in _LATER}
    plan = {"units": states, "options": needed, "tokenizer": asdict(known)}
    path = work / _PLAN
    if path.exists():
        begun = json.loads(path.read_bytes())
        same = all(begun[key] == plan[key] for key in ("options", "tokenizer"))
        goes_on = same and _paths(begun["units"]) == _paths(states)
        if not (goes_on or force or begun.get("refused")):
            raise DataError(
                f"{work.parent} has an unfinished build of other sources or options; give those again "
                "to go on, choose another --out, or start afresh with --force"
            )
        for i, (old, new) in enumerate(zip_longest(begun["units"], states)):
            if not same or old != new:
                shutil.rmtree(part_folder(work, i), ignore_errors=True)
    write_text(path, json.dumps(plan, indent=1))


def _paths(units: Sequence[Sequence[Any]]) -> list[str]:
    """Return the files of units as a plan has them, each once."""
    return [*dict.fromkeys(unit[1] for unit in units)]


def _make_parts(
    work: Path,
    units: Sequence[Unit],
    options: Options,
    known: Tokenizer,
    workers: int,
    report: Callable[[Progress], None],
) -> None:
    open_units = [i for i in range(len(units)) if not part_folder(work, i).exists()]
    total, begun = sum(unit.size for unit in units), time.monotonic()
    before = done = total - sum(units[i].size for i in open_units)
    report(Progress(done, total, 0.0, 0))
    for i in _worked(work, open_units, units, options, known, min(workers, len(open_units))):
        done += units[i].size
        report(Progress(done, total, time.monotonic() - begun, done - before))


def _worked(
    work: Path,
    open_units: Sequence[int],
    units: Sequence[Unit],
    options: Options,
    known: Tokenizer,
    workers: int,
) -> Iterator[int]:
    """Make the parts of units and yield their numbers, in the order in which they are done."""
    if workers <= 1:
        for i in open_units:
            make_part(work, i, units[i], options, known)
            yield i
        return
    # not forked: a parent may have threads, of torch or tokenizers, that a fork would lose
    context = multiprocessing.get_context("spawn")
    with _pool(workers, context) as pool:
        running = {pool.submit(make_part, work, i, units[i], options, known): i for i in open_units}
        while running:
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for each in finished:
                try:
                    each.result()
                except BrokenProcessPool:
                    raise Interrupted(
                        "a worker was killed, perhaps for want of memory; give the command again to go on, "
                        "with fewer --workers"
                    ) from None
                yield running.pop(each)


@contextmanager
def _pool(workers: int, context: Any) -> Iterator[ProcessPoolExecutor]:
    pool = ProcessPoolExecutor(workers, context, _start_worker, (os.getpid(),))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker(parent: int) -> None:
    """Prepare a worker: one thread, and an end with its parent's, however that ends."""
    one_thread()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _finish(out: Path, work: Path, units: Sequence[Unit], options: Options, known: Tokenizer) -> Manifest:
    vocab = known.vocab or 1 + max(
        [known.end or 0, *(largest_token(work, i) for i in range(len(units)))],
    )
    dtype = "uint8" if vocab <= 1 << 8 else "uint16" if vocab <= 1 << 16 else "uint32"
    chosen = choose(work, units, options)
    _check(chosen.counts(), units, options)
    _remove_data(out)
    try:
        splits = write_shards(out, chosen, options, dtype)
        if known.sha256:
            with replacing(out / known.name) as file:
                file.write(tokenizer_path(options.tokenizer).read_bytes())
        report = _report(units, options, splits, chosen.dropped)
        examples = bool(options.fields.prompt)
        manifest = Manifest(
            str(out), dtype, vocab, known.end, known.name, known.sha256, examples, splits, report
        )
        write_text(out / MANIFEST, manifest.to_json())
        return read_manifest(str(out))
    except BaseException:
        _remove_data(out)
        raise


def _check(documents: dict[str, int], units: Sequence[Unit], options: Options) -> None:
    if not documents[TRAIN]:
        raise DataError("no document is left to train on: the sources are empty, or all of it is held out")
    asked = {unit.split for unit in units} | ({EVAL} if options.eval_fraction else set())
    for name in sorted(asked):
        if documents.get(name):
            continue
        if name != EVAL:
            raise DataError(f"the held-out set {name} has no documents")
        raise DataError(
            f"none of the {documents[TRAIN]} documents fell into {EVAL}, which takes "
            f"{options.eval_fraction:.0%} of them by their content; raise --eval-fraction, divide text with "
            f"--documents paragraph or line, or name a held-out file: --eval {EVAL}=FILE"
        )


def _report(
    units: Sequence[Unit], options: Options, splits: dict[str, SplitData], dropped: Dropped
) -> dict[str, Any]:
    names = [*dict.fromkeys(unit.path for unit in units)]
    return {
        "formats": sorted({unit.format for unit in units}),
        "files": len(names),
        "bytes_read": sum(unit.size for unit in units),
        "dropped_held_out": dropped.held_out,
        "dropped_repeated": dropped.repeated,
        "options": {key: value for key, value in asdict(options).items() if key != "tokenizer"},
    }
