"""The worker processes that a command starts on its machine, which end with it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from search.run.worker_process import GRACE, STOP, Ended, Job
from search.store.folder import LOGS

if TYPE_CHECKING:
    from search.run.worker_plan import WorkerPlan

_TICK = 0.25
"""Seconds between two checks whether all are still running."""
_START = "from search.run.worker_process import main; main()"


class LocalWorker:
    """One process.

    Attributes:
        number: from 1.
        log: the file that takes what it prints.
        ended: how it ended; None while it is running.
        killed: whether a signal ended it.
    """

    def __init__(
        self, number: int, job: Job, environment: dict[str, str], log: Path, cwd: str | None = None
    ) -> None:
        self.number, self.log = number, log
        self.ended: Ended | None = None
        self.killed = False
        self._connection: Connection[Any, Any]
        self._connection, theirs = Pipe()
        paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
        # a worker is one process, whatever srun says about tasks
        ours = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
        with log.open("ab") as output, theirs:
            self._process = subprocess.Popen(
                # not from the current directory, which may contain a `search` module of the user
                [sys.executable, "-P", "-c", _START, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=ours | {"PYTHONPATH": paths} | environment,
                cwd=cwd,
                pass_fds=[theirs.fileno()],
                # in its own group, so that Ctrl-C reaches only the process that started it
                start_new_session=True,
            )
        self._send(job)

    @property
    def is_gone(self) -> bool:
        """Whether the process has ended."""
        return self._process.poll() is not None

    @property
    def output(self) -> str:
        """The file with what it printed, or "" if it printed nothing."""
        return str(self.log) if self.log.stat().st_size else ""

    def fileno(self) -> int:
        """Return the file descriptor to wait on for its next message."""
        return self._connection.fileno()

    def receive(self) -> Any:
        """Return its next message, or `Ended` if there is no further one."""
        try:
            message = self._connection.recv()
        except (EOFError, OSError):
            message = self._died()
        if isinstance(message, Ended):
            self.ended = message
        return message

    def stop(self) -> None:
        """Ask it to save its run and end."""
        self._send(STOP)

    def kill(self) -> None:
        """End it at once, with the processes it started."""
        if not self.is_gone:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def close(self, until: float) -> None:
        """Wait for its end until a time of `time.monotonic`, then kill it; remove an empty log."""
        self._connection.close()
        try:
            self._process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.kill()
            self._process.wait()
        with suppress(OSError):
            if self.log.stat().st_size == 0:
                self.log.unlink()

    def _send(self, message: object) -> None:
        # a worker that is gone is noticed at the next receive
        with suppress(OSError):
            self._connection.send(message)

    def _died(self) -> Ended:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_TICK * 20)
        self.kill()
        code = self._process.wait()
        if code < 0:
            self.killed = True
            return Ended("failed", f"killed by {signal.Signals(-code).name}")
        return Ended("failed", f"ended with exit code {code} {self._last_line()}".strip())

    def _last_line(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()
        return f"({lines[-1]})" if lines else ""


class LocalWorkers:
    """All local workers; a context manager that leaves none running."""

    def __init__(self, plan: WorkerPlan, job: Job) -> None:
        self.each: list[LocalWorker] = []
        self._plan, self._job = plan, job
        self._logs = job.folder / LOGS

    def __enter__(self) -> LocalWorkers:
        self._logs.mkdir(exist_ok=True)
        name = f"{socket.gethostname()}-{os.getpid()}"
        try:
            for number in range(1, self._plan.count + 1):
                environment, log = self._plan.environment(number - 1), self._logs / f"{name}-{number}.log"
                self.each.append(LocalWorker(number, self._job, environment, log))
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        until = time.monotonic() + GRACE
        try:
            # closing the connection stops a worker that is still running
            self.stop()
            for worker in self.each:
                worker.close(until)
        except KeyboardInterrupt:
            for worker in self.each:
                worker.kill()
            raise
        finally:
            with suppress(OSError):
                self._logs.rmdir()

    def messages(self) -> Iterator[tuple[LocalWorker, Any] | None]:
        """Yield their messages until all have ended; None now and then, and if there is none."""
        while running := [worker for worker in self.each if worker.ended is None]:
            ready = wait([worker.fileno() for worker in running], _TICK)
            for worker in running:
                if worker.fileno() in ready or worker.is_gone:
                    yield worker, worker.receive()
            yield None

    def stop(self) -> None:
        """Ask all to save their runs and end."""
        for worker in self.each:
            if worker.ended is None:
                worker.stop()

    def kill(self) -> None:
        """End all at once."""
        for worker in self.each:
            worker.kill()
