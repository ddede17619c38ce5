"""The agent of a worker on another machine: it starts the worker there and passes its messages on.

A launcher starts one agent for each worker, wherever the cluster has room. The agent connects to the command
that started it, receives the job, and runs a worker process as that command would on its own machine. When
the connection ends, the worker saves its run and ends; when the agent is killed, likewise.
"""

from __future__ import annotations

import os
import socket
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, wait
from pathlib import Path
from typing import Any

from search.errors import SearchError
from search.run.local_workers import LocalWorker
from search.run.worker_process import GRACE, Ended, Job
from search.store.folder import LOGS, SPACE
from search.store.locks import is_free

KILL = "kill"
"""The message that asks an agent to end its worker at once."""
_TICK = 0.25
_ATTEMPTS = 5
"""How often an agent tries to reach the command, a second apart."""
_SEEN = 30.0
"""Seconds until a file that one machine wrote has to be visible on another."""


@dataclass(frozen=True)
class Call:
    """How the agent of worker `number` reaches the command: its address, and the key that admits it."""

    host: str
    port: int
    key: bytes
    number: int


@dataclass(frozen=True)
class Hello:
    """The first message of an agent."""

    number: int
    machine: str


@dataclass(frozen=True)
class Start:
    """The answer to it.

    Attributes:
        environment: environment variables of the worker.
        cwd: the working directory of the command, which is the worker's where it exists.
        held: the name of a file in the folder's logs that the command keeps locked.
    """

    job: Job
    environment: dict[str, str]
    cwd: str
    held: str


class WorkerKilled(SearchError):
    """A worker was killed, perhaps with its node; the launcher decides whether it is started again."""


class Agent:
    """Starts a worker and passes its messages on, until it has ended."""

    def __init__(self) -> None:
        self._worker: LocalWorker | None = None
        self._command: Connection[Any, Any] | None = None

    def __call__(self, call: Call) -> None:
        """Serve the command that `call` leads to.

        Raises:
            SearchError: it cannot be reached.
            WorkerKilled: its worker was killed.
        """
        machine = socket.gethostname()
        # a command that is gone needs no worker
        with _reach(call) as self._command, suppress(EOFError, OSError):
            self._command.send(Hello(call.number, machine))
            start = self._command.recv()
            if isinstance(start, Start):
                self._serve(start, call.number, machine)

    def leave(self) -> None:
        """Have the worker save its run and end, since this machine is needed for something else."""
        if self._command is not None:
            self._command.close()
        if self._worker is not None:
            self._worker.close(time.monotonic() + GRACE)

    def _serve(self, start: Start, number: int, machine: str) -> None:
        assert self._command is not None
        try:
            check_sharing(start, machine)
        except SearchError as error:
            self._command.send(Ended("failed", str(error)))
            return
        with tempfile.TemporaryDirectory() as own:
            logs = start.job.folder / LOGS if _is_shared(start) else Path(own)
            log = logs / f"{machine}-{os.getpid()}-{number}.log"
            cwd = start.cwd if Path(start.cwd).is_dir() else None
            self._worker = LocalWorker(number, start.job, start.environment, log, cwd)
            try:
                self._relay(self._worker, self._command, machine)
            finally:
                # closes its connection, upon which it saves its run
                self._worker.close(time.monotonic() + GRACE)

    def _relay(self, worker: LocalWorker, command: Connection[Any, Any], machine: str) -> None:
        killing = False
        while worker.ended is None:
            ready = wait([worker.fileno(), command.fileno()], _TICK)
            if command.fileno() in ready:
                killing = command.recv() == KILL
                worker.kill() if killing else worker.stop()
            if worker.fileno() in ready or worker.is_gone:
                message = worker.receive()
                if worker.killed and not killing:
                    raise WorkerKilled(f"{message.text} (on {machine})")
                if isinstance(message, Ended) and message.how == "failed":
                    message = Ended("failed", f"{message.text} (on {machine})")
                command.send(message)


def check_sharing(start: Start, machine: str) -> None:
    """Refuse a folder that is another one on this machine, or whose locks do not reach it.

    Raises:
        SearchError: workers could not share their state.
    """
    folder = start.job.folder
    if _is_shared(start):
        if is_free(folder / LOGS / start.held):
            raise SearchError(
                f"{folder}: a lock that another machine holds is free on {machine}; mount the file system "
                "with locks across machines, or keep the state in a database (--storage)"
            )
    elif start.job.storage is None:
        raise SearchError(
            f"{folder}: not the same folder on {machine}; choose one on a file system that all machines "
            "share (--out), or keep the state in a database (--storage)"
        )


def _is_shared(start: Start) -> bool:
    """Whether the folder here is that of the command."""
    folder = start.job.folder
    if not (folder / SPACE).exists():
        return False
    end = time.monotonic() + _SEEN
    while not (folder / LOGS / start.held).exists():
        if time.monotonic() > end:
            return False
        time.sleep(0.5)
    return True


def keep_alive(connection: Connection[Any, Any]) -> None:
    """Notice within a minute that the other machine is gone, also while it owes an acknowledgement."""
    with socket.socket(fileno=os.dup(connection.fileno())) as same:
        same.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 60_000)
        same.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        same.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30)
        same.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
        same.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)


def _reach(call: Call) -> Connection[Any, Any]:
    for attempt in range(_ATTEMPTS):
        try:
            connection: Connection[Any, Any] = Client((call.host, call.port), authkey=call.key)
        except (OSError, EOFError, AuthenticationError) as error:
            failed = error
            time.sleep(1.0 if attempt < _ATTEMPTS - 1 else 0.0)
        else:
            keep_alive(connection)
            return connection
    raise SearchError(
        f"{socket.gethostname()} cannot reach the command at {call.host}:{call.port}: {failed}; if it is "
        "running, name its machine as others reach it with --launch host=NAME"
    )
