"""Watching the processes of a run from rank 0, so that none waits forever for one that is gone or stuck."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import torch

from composer.training.folder.errors import TrainingError

LIMIT = "COMPOSER_RANK_TIMEOUT"
"""The environment variable that sets how many seconds ranks wait for each other."""

_DEFAULT_SECONDS = 600.0
_INTERRUPTED = 130
_LOOK_SECONDS = 0.2
_GRACE_SECONDS = 30.0  # for an error to reach the thread that waits
_END_SECONDS = 2.0  # for a rank to see that its standard input has ended; it has nothing to save


def limit() -> timedelta:
    """Return how long ranks wait for each other before the run ends with an error.

    Raises:
        TrainingError: COMPOSER_RANK_TIMEOUT is not a positive number of seconds.
    """
    text = os.environ.get(LIMIT)
    try:
        seconds = _DEFAULT_SECONDS if text is None else float(text)
        if not seconds > 0:
            raise ValueError
        return timedelta(seconds=seconds)
    except (ValueError, OverflowError):
        raise TrainingError(f"{LIMIT}: expected a number of seconds above 0, got {text!r}") from None


class Watch:
    """Watches the other ranks from a thread, and the thread of rank 0 that created it.

    A dead rank makes the others fail in the operation they wait in; if it does not within 30 seconds,
    this process ends. So does a run whose rank 0 is in one call for longer than the limit and 30 seconds,
    since the operations have the limit themselves and did not obey it.
    """

    def __init__(self, folder: Path, others: Sequence[subprocess.Popen[bytes]]) -> None:
        self.folder, self.others = folder, others
        self._thread = threading.get_ident()
        self._closing, self._left = threading.Event(), threading.Event()
        self._stuck_after = limit().total_seconds() + _GRACE_SECONDS
        self._seen: tuple[int, int] | None = None
        self._since = time.monotonic()
        threading.Thread(target=self._look, name="ranks", daemon=True).start()

    def failure(self, wait: float = 0.0) -> str | None:
        """Return which rank failed and how, or ""; wait up to `wait` seconds for one to fail."""
        until = time.monotonic() + wait
        while not (failure := self._failed()) and time.monotonic() < until:
            time.sleep(0.05)
        return failure

    def close(self) -> None:
        """End the other ranks and leave the process group."""
        self._closing.set()
        self._end_others()
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()  # waits for operations that are under way
        self._left.set()

    def _end_others(self) -> None:
        for process in self.others:
            assert process.stdin is not None
            process.stdin.close()
        until = time.monotonic() + _END_SECONDS
        for process in self.others:
            try:
                process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _failed(self) -> str | None:
        codes = {rank: process.poll() for rank, process in enumerate(self.others, start=1)}
        failed = {rank: code for rank, code in codes.items() if code not in (None, 0, _INTERRUPTED)}
        # the others fail because of the killed one
        for rank, code in sorted(failed.items(), key=lambda item: item[1] or 0):
            assert code is not None
            if code < 0:
                return f"rank {rank} was killed by {signal.Signals(-code).name}"
            return f"rank {rank} failed, as it says above"
        return None

    def _look(self) -> None:
        while not self._left.wait(_LOOK_SECONDS):
            if self._closing.is_set():
                self._left.wait(_GRACE_SECONDS)  # for the others
                self._end("the process group does not close")
            elif failure := self._failed():
                self._end(failure)
            elif self._stuck():
                for process in self.others:
                    process.kill()
                self._end(f"rank 0 has waited for the others for {self._stuck_after:.0f} s")

    def _stuck(self) -> bool:
        """Whether the watched thread has been in one call for too long."""
        frame = sys._current_frames().get(self._thread)
        seen = None if frame is None else (id(frame), frame.f_lasti)
        now = time.monotonic()
        if seen != self._seen:
            self._seen, self._since = seen, now
        return now - self._since > self._stuck_after

    def _end(self, failure: str) -> None:
        """Give the watched thread time to end the run, then end this process."""
        if self._left.wait(_GRACE_SECONDS):
            return
        for process in self.others:
            process.kill()
        print(f"{self.folder}: {failure}; earlier checkpoints are intact", file=sys.stderr, flush=True)
        os._exit(1)
