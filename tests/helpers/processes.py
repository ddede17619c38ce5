"""Processes that tests start; each has a time limit, and none is left behind."""

import atexit
import multiprocessing
import multiprocessing.reduction
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).parents[2]
# its processes are forked from one that has imported these, which saves seconds for each
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["lightning.pytorch", "composer.training.run", "search.run.study"])


def no_waiting_for_disks():
    """Have what is written stay with the system, which loses nothing with a process that is killed."""
    os.fsync = lambda file: None


def run_all(*calls, seconds=120):
    """Run `(function, *arguments)` each in a process that holds no state of this one; their exit codes.

    After `seconds` all that still run are killed, and the test fails.
    """
    processes = [FORKS.Process(target=_called, args=call) for call in calls]
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


def _called(call, *arguments):
    no_waiting_for_disks()
    call(*arguments)


def wait_for(what, seconds=240):
    """Wait until `what()`; generous, for a machine that does much else."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "in vain"
        time.sleep(0.02)


class Forked:
    """`call(*arguments)` in a process and session of its own, with the methods of `subprocess.Popen`.

    What it prints goes into temporary files, or into the two of `files`.
    """

    def __init__(self, call, *arguments, environment=None, cwd=None, files=None):
        if files is None:
            self._files = [tempfile.TemporaryFile("w+") for _ in range(2)]  # noqa: SIM115
        else:
            self._files = [path.open("w+") for path in files]
        with open(os.devnull) as nothing:
            files = [each.fileno() for each in (nothing, *self._files)]
            self._start(files, environment or {}, cwd, call, arguments)

    def _start(self, files, environment, cwd, call, arguments):
        """Start it with the standard input, output and error of `files`, which are numbers."""
        files = [multiprocessing.reduction.DupFd(each) for each in files]
        place = os.environ | environment, cwd or os.getcwd()
        self._process = FORKS.Process(target=_forked, args=(place, files, call, *arguments))
        self._process.start()
        self.pid, self._told = self._process.pid, None

    @property
    def returncode(self):
        return self._process.exitcode

    def poll(self):
        return self.returncode

    def kill(self):
        self._process.kill()

    def wait(self, timeout=None):
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(str(self._process), timeout)
        return self.returncode

    def communicate(self, timeout=None):
        self.wait(timeout)
        self._told = self._told or tuple(map(_read, self._files))
        return self._told


class ForkedRank(Forked):
    """Another rank of a run, in the place of `subprocess.Popen`: of the command its arguments are used."""

    def __init__(self, command, stdin, stdout, env):
        ours, self.stdin = (os.fdopen(*each) for each in zip(os.pipe(), ("rb", "wb"), strict=True))
        with ours, open(os.devnull, "w") as nowhere:
            self._start([ours.fileno(), nowhere.fileno(), 2], env, None, _rank, command[3:])


def _rank(*arguments):
    from composer.training.rank import _main

    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    _main(*arguments)


def composer(*arguments):
    """`composer ARGUMENTS`, for a process of its own."""
    from composer.cli.main import main

    sys.exit(main(arguments))


def _forked(place, files, call, *arguments):
    environment, cwd = place
    os.setsid()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    for number, file in enumerate(files):
        os.dup2(file.detach(), number)
    no_waiting_for_disks()
    try:
        call(*arguments)
    finally:
        atexit._run_exitfuncs()


def _read(file):
    with file:
        file.seek(0)
        return file.read()


@contextmanager
def command(*arguments, seconds=240, **environment):
    """Start `composer ARGUMENTS` in a session of its own; nothing of it is left in the end."""
    process = Forked(
        composer,
        *map(str, arguments),
        environment={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | environment,
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
        results = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                state, _, _, session = path.read_text().rpartition(")")[2].split()[:4]
                if int(session) == self.pid and state != "Z":
                    results.append(int(path.parent.name))
        return results
