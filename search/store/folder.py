"""The folder of a search: its contents, and which search it belongs to.

space.txt             the settings that decide a trial and its result, one value per line
study.journal         Optuna's study
study.copy            the same, where it is in a database
records/              one file for each spec trained: who works on it, and its results
changes.log           which records changed, in order, for the workers
trials/<number>/      run folders
baselines/<name>/     run folders
imported/<name>/      run folders of trials and baselines that other searches trained
leaderboard.csv       all of them, best first
best/                 spec and checkpoints of the winner
front/<name>/         those of every point of the front
database.txt          where records and study are, if in a database (then records/ is a copy)
workers/              one lease for each live worker
logs/                 the output of local workers, if any
lock                  held briefly by a worker that claims
turn.lock             held by a worker that claims in a database
publish.lock          held by the worker that writes leaderboard.csv and best/
import.lock           held by the process that imports results of another search
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from composer.settings.errors import os_message
from composer.training.folder.files import write_text
from search.errors import SearchError
from search.store.locks import exclusive, is_free
from search.store.shared import Shared

SPACE, JOURNAL, RECORDS, LEADERBOARD = "space.txt", "study.journal", "records", "leaderboard.csv"
CHANGES = "changes.log"
JOURNAL_COPY = "study.copy"
BEST, FRONT, IMPORTED_RUNS, WORKERS, LOGS = "best", "front", "imported", "workers", "logs"
LOCK, TURN, PUBLISH, IMPORT, DATABASE = "lock", "turn.lock", "publish.lock", "import.lock", "database.txt"
REPORT = ("report.html", "report.md", "tables", "figures")
"""The files of a study's report, which may be written before anything is trained."""

_SHOWN = 12
"""Number of lines of a difference that a note shows."""


def default_folder(space: Shared) -> Path:
    """Return `runs/<name>-<identity>`, the default folder of a search."""
    return Path("runs") / f"{space.name}-{space.identity()}"


def enter(folder: Path, space: Shared) -> None:
    """Create the folder of a search, or join the search there.

    Raises:
        SearchError: it is the folder of another space or of something else, or it cannot be written to.
    """
    _refuse_what_is_none(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / LOCK).touch()
    except OSError as error:
        raise SearchError(os_message(error, folder)) from None
    _refuse_without_locks(folder)
    with exclusive(folder / LOCK):
        if (folder / SPACE).exists():
            _refuse_another(folder, space)
        else:
            write_text(folder / SPACE, _text(space))


def check_folder(folder: Path, space: Shared, storage: str | None) -> None:
    """Refuse what `enter` and the store would refuse later, and create nothing.

    Raises:
        SearchError: it is the folder of another space or of something else, or its records are in a database.
    """
    _refuse_what_is_none(folder)
    if (folder / SPACE).exists():
        _refuse_another(folder, space)
    if storage is None:
        refuse_database(folder)


def refuse_database(folder: Path) -> None:
    """Refuse a search whose records are in a database, if none is named.

    Raises:
        SearchError: its records are in a database.
    """
    if (folder / DATABASE).exists():
        place = (folder / DATABASE).read_text(encoding="utf-8").splitlines()[-1]
        raise SearchError(
            f"{folder}: this search keeps its records in {place}; name it with --storage, "
            "or choose another folder with --out"
        )


def _refuse_without_locks(folder: Path) -> None:
    """Refuse a file system without locks, where workers would train the same trials.

    Some have none and say so, others grant every lock to everybody. Whether locks reach other machines shows
    only there (`search.launch.agent`).
    """
    path = folder / LOCK
    try:
        with exclusive(path):
            missing = "two holders at once" if is_free(path) else ""
    except OSError as error:
        missing = os_message(error, path)
    if missing:
        raise SearchError(
            f"{folder}: expected a file system with locks (flock), got {missing}; choose another with --out, "
            "such as a local disk, NFSv4, or Lustre mounted with flock; a database (--storage) keeps the "
            "state elsewhere, but run folders need locks too"
        )


def _refuse_what_is_none(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise SearchError(f"{folder}: expected a folder for the search, got a file")
    if folder.is_dir():
        ours = (LOCK, SPACE, *REPORT)
        others = sorted(path.name for path in folder.iterdir() if not path.name.startswith(ours))
        # checked last, since a process that creates the folder writes this file first
        if others and not (folder / SPACE).exists():
            raise SearchError(
                f"{folder}: not a search folder (it contains {others[0]}); choose another with --out"
            )


def _text(space: Shared) -> str:
    return "".join(f"{line}\n" for line in space.lines())


def _refuse_another(folder: Path, space: Shared) -> None:
    changed = _changed(folder, space)
    if changed:
        raise SearchError(
            f"{folder}: the search in this folder is of another space (- there, + now):\n"
            + "\n".join(changed)
            + "\nrestore the space, or choose another folder with --out; "
            f"with `--import {folder}` that one takes over the results that are points of its space"
        )


def older(folder: Path, space: Shared) -> str | None:
    """Return a note if there are searches of the same name beside a folder that does not exist yet.

    It names the newest of them, the difference, and the option that imports its results.
    """
    if (folder / SPACE).exists():
        return None
    # a name and an identity, not a longer name; folders of other kinds have no records
    named = re.compile(re.escape(space.name) + r"-[0-9a-f]{12}")
    records = [path for path in folder.parent.glob(f"*/{RECORDS}") if named.fullmatch(path.parent.name)]
    folders = [path.parent for path in sorted(records, key=_touched) if (path.parent / SPACE).is_file()]
    if not folders:
        return None
    newest = folders[-1]
    try:
        changed = _changed(newest, space)
    except SearchError:
        return None
    more = [f"  and {len(changed) - _SHOWN} more"] if len(changed) > _SHOWN else []
    lines = [
        f"this is a new search: the last one of {space.name}, in {newest}, is of another space "
        "(- there, + now):",
        *changed[:_SHOWN],
        *more,
        f"`--import {newest}` brings in its results that are points of this space",
    ]
    return "\n".join(lines)


def _changed(folder: Path, space: Shared) -> list[str]:
    """Return the lines in which the space of a search differs from another one."""
    path = folder / SPACE
    try:
        old = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SearchError(
            f"{path}: expected the space of a search, but it cannot be read ({error})"
        ) from None
    return [
        f"  {line[0]} {line[1:]}"
        for line in difflib.unified_diff(old, space.lines(), n=0, lineterm="")
        if line[0] in "+-" and not line.startswith(("---", "+++"))
    ]


def _touched(path: Path) -> float:
    return path.stat().st_mtime
