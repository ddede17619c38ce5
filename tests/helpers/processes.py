"""Processes that tests start; each has a time limit, and none is left behind."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run_all(*calls, seconds=120):
    """Run `(function, *arguments)` each in a process that holds no state of this one; their exit codes.

    After `seconds` all that still run are killed, and the test fails.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["composer.training.run"])
    processes = [context.Process(target=call[0], args=call[1:]) for call in calls]
    try:
        for process in processes:
            process.start()
        for process in processes:
            process.join(seconds)
        assert all(process.exitcode is not None for process in processes), f"not done in {seconds} s"
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
                process.join()
    return [process.exitcode for process in processes]


@contextmanager
def command(*arguments, seconds=240, **environment):
    """Start `composer ARGUMENTS` in a session of its own; nothing of it is left in the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "composer", *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | environment,
    )
    started = Started(process, time.monotonic() + seconds)
    try:
        yield started
    finally:
        for pid in started.alive():
            os.kill(pid, signal.SIGKILL)
        process.communicate()


class Started:
    """A command that runs, and the processes that it started."""

    def __init__(self, process, until):
        self.process, self.until = process, until

    @property
    def pid(self):
        return self.process.pid

    def ended(self):
        """Wait for the end: exit code and what was written to stderr."""
        _, error = self.process.communicate(timeout=max(1, self.until - time.monotonic()))
        return self.process.returncode, error

    def wait_for(self, happened):
        """Wait until `happened()` while the command runs."""
        while not happened():
            assert self.process.poll() is None, self.process.communicate()[1]
            assert time.monotonic() < self.until
            time.sleep(0.05)

    def wait_for_none(self):
        """Wait until none of its processes is left."""
        while self.alive():
            assert time.monotonic() < self.until
            time.sleep(0.05)

    def alive(self):
        """The processes of the command's session, by id: zombies are not counted."""
        found = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                state, _, _, session = path.read_text().rpartition(")")[2].split()[:4]
                if int(session) == self.pid and state != "Z":
                    found.append(int(path.parent.name))
        return found
