"""Who is alive: a worker keeps a lease, a file it holds a lock on and touches again and again.

On one machine the lock decides, which the system drops with its holder. Between machines the age of the
last touch decides, by the clock of the file system (or of the database), not by the machines' own.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from composer.training.files import ASIDE
from search.locks import is_free

BEAT = 10.0
"""Seconds between two touches."""
EXPIRY = 120.0
"""Seconds without a touch after which a worker on another machine is taken for dead."""

SUFFIX = ".lease"


@dataclass(frozen=True)
class Worker:
    """One process that searches.

    Attributes:
        name: its own, never used before.
        machine: within which locks on files tell who is alive.
        started: seconds since 1970 by its machine's clock, for people to read.
    """

    name: str
    host: str
    pid: int
    machine: str
    started: float


def this_worker() -> Worker:
    """Name the process that asks."""
    host, pid = socket.gethostname(), os.getpid()
    return Worker(f"{host}-{pid}-{secrets.token_hex(2)}", host, pid, _machine(host), time.time())


class Lease:
    """The file that says that a worker is alive, in `folder` under the worker's name."""

    def __init__(self, folder: Path, worker: Worker) -> None:
        self.path = folder / f"{worker.name}{SUFFIX}"
        self._text = json.dumps(asdict(worker)) + "\n"
        self._turn = threading.Lock()
        folder.mkdir(exist_ok=True)
        self._file = self._made()

    def touch(self) -> float:
        """Say that the worker is alive; return the time, by the clock of the file system."""
        with self._turn:
            # whoever took this worker for dead has removed the file
            if not self.path.exists():
                self._file.close()
                self._file = self._made()
            os.utime(self._file.fileno())
            return os.fstat(self._file.fileno()).st_mtime

    def close(self) -> None:
        """Remove it: the worker goes."""
        with self._turn:
            self.path.unlink(missing_ok=True)
            self._file.close()

    def _made(self) -> IO[str]:
        # it has its lock before anyone can see it
        aside = self.path.with_name(self.path.name + ASIDE)
        file = aside.open("w")
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(self._text)
        file.flush()
        os.rename(aside, self.path)
        return file


def is_alive(path: Path, machine: str, age: float) -> bool:
    """Whether the worker with the lease at `path` lives, given its machine and the last touch's age."""
    if machine == _machine(socket.gethostname()) and path.exists():
        return not is_free(path)
    return age < EXPIRY


@contextmanager
def beating(touch: Callable[[], object], *passing: type[Exception]) -> Iterator[None]:
    """Call `touch` every `BEAT` seconds from a thread; what is `passing` is tried again at the next beat."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(BEAT):
            with suppress(OSError, *passing):
                touch()

    thread = threading.Thread(target=beat, name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _machine(host: str) -> str:
    """Name the running system: a kernel, and the host within it, as containers share the one."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    try:
        return f"{host}/{boot.read_text().strip()}"
    except OSError:
        return host
