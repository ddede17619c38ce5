"""Which workers are alive: each keeps a lease, a file that it locks and touches regularly.

On one machine the lock decides, which the system releases with its holder. Between machines the age of the
last touch decides, by the clock of the file system (or of the database), not by the machines' clocks.
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
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from composer.training.folder.files import ASIDE
from search.store.locks import is_free

BEAT = 10.0
"""Seconds between two touches."""
EXPIRY = 120.0
"""Seconds without a touch after which a worker on another machine is considered dead."""

SUFFIX = ".lease"


@dataclass(frozen=True)
class Worker:
    """A process that searches.

    Attributes:
        name: unique, never reused.
        machine: the machine within which file locks show who is alive.
        started: seconds since 1970 by its machine's clock, for people to read.
    """

    name: str
    host: str
    pid: int
    machine: str
    started: float


def this_worker() -> Worker:
    """Return the worker for this process."""
    host, pid = socket.gethostname(), os.getpid()
    return Worker(f"{host}-{pid}-{secrets.token_hex(2)}", host, pid, _machine(host), time.time())


class Lease:
    """The file that shows that a worker is alive, in `folder` under the worker's name."""

    def __init__(self, folder: Path, worker: Worker) -> None:
        self.path = folder / f"{worker.name}{SUFFIX}"
        self._text = json.dumps(asdict(worker)) + "\n"
        self._turn = threading.Lock()
        folder.mkdir(exist_ok=True)
        self._file = self._made()

    def touch(self) -> float:
        """Mark the worker as alive; return the time by the clock of the file system."""
        with self._turn:
            # a worker that considered this one dead has removed the file
            if not self.path.exists():
                self._file.close()
                self._file = self._made()
            os.utime(self._file.fileno())
            return os.fstat(self._file.fileno()).st_mtime

    def close(self) -> None:
        """Remove the lease, since the worker ends."""
        with self._turn:
            self.path.unlink(missing_ok=True)
            self._file.close()

    def _made(self) -> IO[str]:
        # it is locked before others can see it
        aside = self.path.with_name(self.path.name + ASIDE)
        file = aside.open("w")
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(self._text)
        file.flush()
        os.rename(aside, self.path)
        return file


def is_alive(path: Path, machine: str, pid: int, age: float) -> bool:
    """Whether a worker is alive, given the path of its lease and the age of its last touch."""
    if machine != _machine(socket.gethostname()):
        return age < EXPIRY
    return not is_free(path) if path.exists() else _runs(pid)


@contextmanager
def beating(touch: Callable[[], object], passes: Callable[[Exception], bool]) -> Iterator[None]:
    """Call `touch` every `BEAT` seconds from a thread, also after an error that `passes`."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(BEAT):
            try:
                touch()
            except Exception as error:
                if not (isinstance(error, OSError) or passes(error)):
                    raise

    thread = threading.Thread(target=beat, name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _runs(pid: int) -> bool:
    """Whether a process with this id is running on this machine."""
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _machine(host: str) -> str:
    """Identify the running system: host, boot and process namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{host}/{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return host
