"""Agents of remote workers in this process, where no cluster is needed, and jobs for their workers."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Client
from pathlib import Path
from threading import Thread

from search.launch.agent import Agent, Call, Hello
from search.run.worker_process import Tell


class Threads:
    """Tasks that are threads; each runs an agent."""

    def __init__(self) -> None:
        self._threads: dict[int, Thread] = {}

    def start(self, calls: Sequence[Call]) -> None:
        for call in calls:
            self._threads[call.number] = Thread(target=Agent(), args=(call,), daemon=True)
            self._threads[call.number].start()

    def over(self) -> Mapping[int, str]:
        return {number: "" for number, thread in self._threads.items() if not thread.is_alive()}

    def trouble(self) -> str:
        return ""

    def cancel(self, numbers: Sequence[int]) -> None:
        pass

    def close(self) -> None:
        for thread in self._threads.values():
            thread.join(30)


class Silent:
    """Tasks whose agents say hello and nothing more."""

    def start(self, calls: Sequence[Call]) -> None:
        self.connections = [Client((call.host, call.port), authkey=call.key) for call in calls]
        for call, connection in zip(calls, self.connections, strict=True):
            connection.send(Hello(call.number, "elsewhere"))

    def over(self) -> Mapping[int, str]:
        return {}

    def trouble(self) -> str:
        return ""

    def cancel(self, numbers: Sequence[int]) -> None:
        pass

    def close(self) -> None:
        for connection in self.connections:
            connection.close()


@dataclass(frozen=True)
class NameVariables:
    """Ends with the names of the environment variables that begin with a prefix."""

    folder: Path
    prefix: str
    storage: str | None = None

    def work(self, tell: Tell) -> str:
        return ",".join(name for name in os.environ if name.startswith(self.prefix))
