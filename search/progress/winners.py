"""`best/` and `front/`: the winner, and every point of the front, each with spec, weights and a command.

A folder is written under another name and renamed. Checkpoints are hard links where the file system has them:
a run replaces its files and never writes into them, so a link keeps its content.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from composer.language.load import load
from composer.settings.errors import SpecError
from composer.training.folder import run_folder as run
from composer.training.folder.data_record import DATA
from composer.training.folder.files import write_text
from search.progress.continue_command import longer
from search.store.folder import BEST, FRONT
from search.store.ledger import Record

TRAIN = "train.txt"

_COPIED = (run.SPEC, DATA, run.COST, run.PLAN, run.METRICS)
_LINKED = (run.BEST, run.LAST, run.STABLE, run.STABLE_BEST, run.WEIGHTS)
_FROM = "from.txt"
_NEW, _OLD = ".new", ".old"


def put_best(folder: Path, winner: Record) -> None:
    """Make `best/` a copy of the winner's run folder."""
    _put(folder, winner, folder / BEST)


def put_front(folder: Path, records: list[Record]) -> None:
    """Make `front/` contain a copy of the run folder of each record, under its name, and nothing else."""
    (folder / FRONT).mkdir(exist_ok=True)
    wanted = {record.name for record in records}
    for path in (folder / FRONT).iterdir():
        if path.name not in wanted and path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
    for record in records:
        _put(folder, record, folder / FRONT / record.name)


def _put(folder: Path, record: Record, place: Path) -> None:
    mark = f"{record.folder}\n"
    if (place / _FROM).exists() and (place / _FROM).read_text(encoding="utf-8") == mark:
        return
    aside, old = (place.with_name(place.name + end) for end in (_NEW, _OLD))
    for leftover in (aside, old):
        shutil.rmtree(leftover, ignore_errors=True)
    aside.mkdir()
    source = folder / record.folder
    for name in (*_COPIED, *_LINKED):
        if (source / name).exists():
            bring(source / name, aside / name, name in _LINKED)
    command = _command(place / run.SPEC, source / run.SPEC)
    if command:
        write_text(aside / TRAIN, f"{command}\n")
    write_text(aside / _FROM, mark)
    if place.exists():
        os.replace(place, old)
    os.replace(aside, place)
    shutil.rmtree(old, ignore_errors=True)


def bring(source: Path, target: Path, link: bool) -> None:
    """Copy a file, as a hard link if requested and possible."""
    if link:
        try:
            os.link(source, target)
            return
        except OSError:
            # another file system, or one without links
            pass
    shutil.copy2(source, target)


def _command(path: Path, source: Path) -> str | None:
    try:
        return longer(path, load(source))
    except SpecError:
        return None
