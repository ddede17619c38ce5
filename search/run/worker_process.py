"""A local worker: a process that does a job, such as to search, and reports to the process that started it.

It ignores Ctrl-C, which reaches it as a message, and ends on request or when that process is gone.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, Protocol

from composer.costs.time.devices import DeviceError
from composer.data.base.errors import DataError
from composer.language.space import Space
from composer.settings.errors import SpecError
from composer.training.folder.errors import TrainingError
from search.errors import SearchError
from search.progress.state import Activity, Event, State
from search.propose.draft_counts import Drawn
from search.trainer import Train

STOP = "stop"
"""The message that asks a worker to save its run and end."""
GRACE = 60.0
"""Seconds that a worker has to save its run, after which it is killed."""

_IN_WORDS = (SpecError, DataError, TrainingError, DeviceError, SearchError)
"""Errors whose text is written for the user."""


class Tell(Protocol):
    """Sends a message to the process that started this one, and ends the job there if it was asked to."""

    def __call__(self, message: object, *, droppable: bool = False, training: bool = False) -> None:
        """Send a message; a droppable one is left out where the reader is slow.

        Raises:
            KeyboardInterrupt: the worker was asked to stop; not while `training`: the run itself ends then.
        """


class Job(Protocol):
    """The work of a worker, which is sent to its process."""

    @property
    def folder(self) -> Path:
        """The folder that all workers share."""

    @property
    def storage(self) -> str | None:
        """The database that they share, if their state is not in the folder."""

    def work(self, tell: Tell) -> str:
        """Work to the end, report on the way, and return why it ended."""


@dataclass(frozen=True)
class SearchJob:
    """The job of searching: the arguments of `run_search`."""

    space: Space
    folder: Path
    storage: str | None
    train: Train

    def work(self, tell: Tell) -> str:
        """Search, reporting each event as `SearchEvent`."""
        import optuna

        from search.run.study import run_search

        def watch(event: Event, state: State) -> None:
            doing = Activity(state.running, state.step, state.target, state.since, state.note)
            message = SearchEvent(event, state.worker, doing, state.left_by, state.outcomes, state.drawn)
            tell(message, droppable=event == "progress", training=event in ("progress", "taken_over"))

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        return run_search(self.space, self.folder, self.train, watch, self.storage).reason


@dataclass(frozen=True)
class SearchEvent:
    """An event of the search as its worker saw it; the fields are those of `State`."""

    event: Event
    worker: str
    activity: Activity
    left_by: str
    outcomes: Counter[str]
    drawn: Drawn


@dataclass(frozen=True)
class Note:
    """Where a worker is, in words: one that a launcher starts elsewhere waits for a place, or has lost it."""

    text: str


@dataclass(frozen=True)
class Ended:
    """The last message of a worker: `text` is the reason why its job ended, or the worker failed."""

    how: Literal["done", "stopped", "failed"]
    text: str = ""


def main() -> None:
    """Run the job received through the connection whose file descriptor is the first argument."""
    connection: Connection[Any, Any] = Connection(int(sys.argv[1]))
    os.set_inheritable(connection.fileno(), False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # SLURM may warn all processes of a job with it; whoever started this one passes that on
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    stopping = threading.Event()
    try:
        job = connection.recv()
        threading.Thread(target=_obey, args=(connection, stopping), daemon=True).start()
        ended = Ended("done", job.work(_Teller(connection, stopping)))
    except (KeyboardInterrupt, EOFError):
        ended = Ended("stopped")
    except Exception as error:
        traceback.print_exc()
        known = isinstance(error, _IN_WORDS)
        ended = Ended("failed", str(error) if known else f"{type(error).__name__}: {error}")
    finally:
        # from here on there is nothing to stop
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with suppress(OSError):
        connection.send(ended)
    sys.stdout.flush()
    sys.stderr.flush()
    # the job has released everything; torch's teardown at exit would take time
    os._exit(ended.how == "failed")


class _Teller:
    """Sends messages, and ends the job on request at a point where nothing is lost."""

    def __init__(self, connection: Connection[Any, Any], stopping: threading.Event) -> None:
        self._connection, self._stopping = connection, stopping

    def __call__(self, message: object, *, droppable: bool = False, training: bool = False) -> None:
        # not every step needs to be sent, and training must not wait for a slow reader
        if droppable and not select.select([], [self._connection], [], 0)[1]:
            return
        # a reader that is gone is noticed by `_obey`
        with suppress(OSError):
            self._connection.send(message)
        # while it trains, the run itself sees to its end
        if self._stopping.is_set() and not training:
            raise KeyboardInterrupt


def _obey(connection: Connection[Any, Any], stopping: threading.Event) -> None:
    """Interrupt the main thread when the worker is asked to stop, or its parent is gone."""
    with suppress(EOFError, OSError):
        while connection.recv() != STOP:
            pass
    stopping.set()
    main_thread = threading.main_thread().ident
    assert main_thread is not None
    signal.pthread_kill(main_thread, signal.SIGTERM)
    time.sleep(GRACE)
    # with all processes it started, if it leads its own process group
    os.killpg(0, signal.SIGKILL) if os.getpgrp() == os.getpid() else os._exit(1)
