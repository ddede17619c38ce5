"""Workers on other machines, as the command that started them sees them."""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge, wait
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from search.launch.agent import KILL, Call, Hello, Start, keep_alive
from search.run.worker_process import GRACE, STOP, Ended, Job, Note
from search.store.folder import LOGS
from search.store.locks import exclusive

_TICK = 0.25
_POLL = 2.0
"""Seconds between two questions to the cluster about its tasks."""
_SILENCE = 5.0
"""Seconds for which the task of a worker without a connection has to be over before it counts as lost."""


class Tasks(Protocol):
    """The tasks that a launcher started on a cluster: one for each worker, which calls an `Agent`."""

    def start(self, calls: Sequence[Call]) -> None:
        """Start one task for each call.

        Raises:
            SearchError: the cluster refuses.
        """

    def over(self) -> Mapping[int, str]:
        """Return which tasks are over and are not started again, by number, with the reason or ""."""

    def trouble(self) -> str:
        """Return why `over` may be out of date, or ""."""

    def cancel(self, numbers: Sequence[int]) -> None:
        """End tasks, and do not start them again."""

    def close(self) -> None:
        """End all, and leave the cluster."""


class RemoteWorker:
    """One worker; see `CrewMember`."""

    output = ""

    def __init__(self, number: int) -> None:
        self.number = number
        self.ended: Ended | None = None
        self.connection: Connection[Any, Any] | None = None
        self.over_since: float | None = None

    def fileno(self) -> int:
        """Return the file descriptor of the connection, -1 without one."""
        return -1 if self.connection is None else self.connection.fileno()

    def send(self, message: object) -> None:
        """Send a message; a connection that is lost is noticed at the next receive."""
        if self.connection is not None:
            with suppress(OSError):
                self.connection.send(message)

    def disconnect(self) -> None:
        """Close the connection, if any."""
        if self.connection is not None:
            self.connection.close()
            self.connection = None


class RemoteCrew:
    """All workers of one command; see `Crew`.

    A worker whose connection is lost is given up only when its task is over for good: a cluster may start
    it again elsewhere, upon which its agent connects anew.
    """

    def __init__(
        self, tasks: Tasks, job: Job, count: int, environment: Mapping[str, str], host: str, waiting: str
    ) -> None:
        self.each = [RemoteWorker(number) for number in range(1, count + 1)]
        self._tasks, self._job, self._environment = tasks, job, dict(environment)
        self._host, self._waiting = host, waiting
        self._arrived: SimpleQueue[tuple[Hello, Connection[Any, Any]]] = SimpleQueue()
        self._due: list[tuple[RemoteWorker, Any]] = []
        self._stopping = False
        self._killed_at: float | None = None
        self._asked_at = 0.0
        self._trouble = ""
        self._over = threading.Event()
        self._held = f"{secrets.token_hex(8)}.held"
        self._stack = ExitStack()

    def __enter__(self) -> RemoteCrew:
        logs = self._job.folder / LOGS
        logs.mkdir(exist_ok=True)
        with ExitStack() as stack:
            stack.callback(self._remove, logs)
            stack.enter_context(exclusive(logs / self._held))
            server = stack.enter_context(socket.create_server(("", 0)))
            key = secrets.token_bytes(32)
            threading.Thread(target=self._accept, args=(server, key), daemon=True).start()
            stack.callback(self._over.set)
            stack.callback(self._tasks.close)
            port = server.getsockname()[1]
            self._tasks.start([Call(self._host, port, key, worker.number) for worker in self.each])
            self._stack = stack.pop_all()
        self._due += [(worker, Note(self._waiting)) for worker in self.each]
        return self

    def __exit__(self, *error: Any) -> None:
        with self._stack:
            if any(worker.ended is None for worker in self.each):
                self.stop()
                end = time.monotonic() + GRACE
                for _ in self.messages():
                    if time.monotonic() > end and self._killed_at is None:
                        self.kill()
            # agents end by themselves
            end = time.monotonic() + _SILENCE
            while len(self._tasks.over()) < len(self.each) and time.monotonic() < end:
                time.sleep(_TICK)

    def messages(self) -> Iterator[tuple[RemoteWorker, Any] | None]:
        """Yield their messages until all have ended; None now and then, and if there is none."""
        while self._due or any(worker.ended is None for worker in self.each):
            self._welcome()
            yield from self._take_due()
            connected = [worker for worker in self.each if worker.connection is not None]
            if connected:
                ready = wait([worker.fileno() for worker in connected], _TICK)
                for worker in connected:
                    if worker.fileno() in ready:
                        self._receive(worker)
            else:
                time.sleep(_TICK)
            self._judge()
            yield from self._take_due()
            yield None

    def stop(self) -> None:
        """Ask all to save their runs and end; those without a place are not started any more."""
        self._stopping = True
        for worker in self.each:
            worker.send(STOP)
        self._give_up(Ended("stopped"))

    def kill(self) -> None:
        """End all at once."""
        self._stopping = True
        self._killed_at = self._killed_at or time.monotonic()
        for worker in self.each:
            worker.send(KILL)
        self._give_up(Ended("stopped"))

    def _take_due(self) -> Iterator[tuple[RemoteWorker, Any]]:
        while self._due:
            yield self._due.pop(0)

    def _welcome(self) -> None:
        """Give the job to agents that have connected."""
        with suppress(Empty):
            while True:
                hello, connection = self._arrived.get_nowait()
                worker = self.each[hello.number - 1]
                if worker.ended is not None or self._stopping:
                    with suppress(OSError):
                        connection.send(STOP)
                    connection.close()
                    continue
                worker.disconnect()
                worker.connection, worker.over_since = connection, None
                worker.send(Start(self._job, self._environment, os.getcwd(), self._held))
                self._due.append((worker, Note(f"starting on {hello.machine}")))

    def _receive(self, worker: RemoteWorker) -> None:
        assert worker.connection is not None
        try:
            message = worker.connection.recv()
        except (EOFError, OSError):
            self._lose(worker)
            return
        if not isinstance(message, Ended):
            self._due.append((worker, message))
        elif message.how == "stopped" and not self._stopping:
            # by the cluster, which may start it again
            self._lose(worker)
        else:
            self._end(worker, message)
            if message.how == "done":
                # nothing is left for those that still wait for a place
                self._give_up(message)

    def _lose(self, worker: RemoteWorker) -> None:
        worker.disconnect()
        if self._stopping:
            self._end(worker, Ended("stopped"))
        else:
            self._due.append((worker, Note("its task was lost; waiting for it to be started again")))

    def _end(self, worker: RemoteWorker, ended: Ended) -> None:
        worker.disconnect()
        worker.ended = ended
        self._due.append((worker, ended))

    def _give_up(self, ended: Ended) -> None:
        """End the workers without a connection as `ended` says."""
        waiting = [worker for worker in self.each if worker.ended is None and worker.connection is None]
        self._tasks.cancel([worker.number for worker in waiting])
        for worker in waiting:
            self._end(worker, ended)

    def _judge(self) -> None:
        """End the workers whose tasks are over for good."""
        now = time.monotonic()
        if self._killed_at is not None and now - self._killed_at > _SILENCE:
            left = [worker for worker in self.each if worker.ended is None]
            self._tasks.cancel([worker.number for worker in left])
            for worker in left:
                self._end(worker, Ended("stopped"))
        if now - self._asked_at < _POLL:
            return
        self._asked_at = now
        over = self._tasks.over()
        self._tell_trouble()
        for worker in self.each:
            if worker.ended is None and worker.connection is None and worker.number in over:
                worker.over_since = worker.over_since or now
                if now - worker.over_since > _SILENCE:
                    reason = over[worker.number] or "its task is over, and nothing was heard from it"
                    self._end(worker, Ended("failed", reason))

    def _tell_trouble(self) -> None:
        """Tell it once, at the workers that wait for the cluster."""
        reported, self._trouble = self._trouble, self._tasks.trouble()
        if self._trouble and not reported:
            waiting = [worker for worker in self.each if worker.ended is None and worker.connection is None]
            self._due += [(worker, Note(self._trouble)) for worker in waiting]

    def _accept(self, server: socket.socket, key: bytes) -> None:
        server.settimeout(_TICK)
        while not self._over.is_set():
            try:
                made, _ = server.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            made.settimeout(None)
            connection: Connection[Any, Any] = Connection(made.detach())
            threading.Thread(target=self._admit, args=(connection, key), daemon=True).start()

    def _admit(self, connection: Connection[Any, Any], key: bytes) -> None:
        """Receive the first message of an agent that knows the key."""
        try:
            deliver_challenge(connection, key)
            answer_challenge(connection, key)
            keep_alive(connection)
            hello = connection.recv()
        except (OSError, EOFError, AuthenticationError):
            connection.close()
            return
        self._arrived.put((hello, connection))

    def _remove(self, logs: Any) -> None:
        with suppress(OSError):
            (logs / self._held).unlink()
            logs.rmdir()
