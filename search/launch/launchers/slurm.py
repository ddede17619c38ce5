"""A SLURM job array, one job for each worker; a preempted or timed-out job is queued again."""

from __future__ import annotations

import math
import socket
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from composer.settings.types import Duration
from search.errors import SearchError
from search.launch.agent import Agent, Call
from search.launch.launcher import Launcher, Need, Options
from search.launch.patience import Question, within
from search.launch.remote import RemoteCrew
from search.run.worker_plan import devices_of, threads_of
from search.run.worker_process import GRACE, Job
from search.store.folder import LOGS

_LIMIT = 120.0
"""Seconds for which an answer of SLURM is awaited."""
_ANSWER = 0.2
"""Seconds for which a question about jobs may hold up the command."""


class SlurmOptions(Options):
    """The options that sbatch gets for a worker's job."""

    cluster: Literal["slurm", "local"] = "slurm"
    """`local` starts the jobs on this machine, to try a command where there is no SLURM."""
    time: Duration = 12 * 3600.0
    """The time limit of a job."""
    partition: str | None = None
    """The partition."""
    account: str | None = None
    """The account."""
    qos: str | None = None
    """The quality of service."""
    constraint: str | None = None
    """Features that a node must have."""
    gpus: int | None = Field(default=None, ge=0)
    """GPUs of a worker; by default 1, or as many as a run trains on; 0 for none."""
    cpus: int | None = Field(default=None, gt=0)
    """CPU cores of a worker. By default as many as a run has threads."""
    memory: int | None = Field(default=None, gt=0)
    """Memory of a worker in GiB; by default what the partition gives."""
    parallel: int = Field(default=256, gt=0)
    """How many jobs of the array run at the same time."""
    restarts: int = Field(default=10, ge=0)
    """How often a job is queued again after its time limit; after a preemption always."""
    warning: Duration = GRACE + 30
    """How long before its end a job is asked to save."""
    host: str | None = None
    """The name or address of this machine as the nodes reach it; by default its host name."""


class SlurmAgent(Agent):
    """An agent that SLURM may stop and start again."""

    def checkpoint(self, call: Call) -> Any:
        """Save the run, and return what the job does when it is started again; submitit calls this."""
        from submitit.helpers import DelayedSubmission

        self.leave()
        return DelayedSubmission(SlurmAgent(), call)


class SlurmTasks:
    """See `Tasks`."""

    def __init__(self, options: SlurmOptions, gpus: int, cpus: int, logs: Path) -> None:
        self._options, self._gpus, self._cpus, self._logs = options, gpus, cpus, logs
        self._jobs: dict[int, Any] = {}
        self._question: Question[Mapping[int, str]] = Question(self._ended, {})
        self._silent = False

    def start(self, calls: Sequence[Call]) -> None:
        """Submit an array with one job for each call.

        Raises:
            SearchError: there is no SLURM here, or it refuses.
        """
        import submitit

        try:
            # readable by the user alone, since the jobs' files hold the key that admits an agent
            folder = tempfile.mkdtemp(prefix="slurm-", dir=self._logs)
            executor = submitit.AutoExecutor(
                folder, cluster=self._options.cluster, slurm_max_num_timeout=self._options.restarts
            )
            executor.update_parameters(**self._parameters())
            jobs = within(_LIMIT, lambda: executor.map_array(SlurmAgent(), calls))
        except TimeoutError:
            raise SearchError(
                f"--launcher slurm: sbatch has not answered for {_LIMIT:.0f} s; jobs that it still submits "
                "end at once"
            ) from None
        except (RuntimeError, ValueError, submitit.core.utils.FailedJobError, OSError) as error:
            raise SearchError(f"--launcher slurm: the jobs could not be submitted: {error}") from None
        self._jobs = {call.number: job for call, job in zip(calls, jobs, strict=True)}

    def over(self) -> Mapping[int, str]:
        """Return which jobs were over when SLURM last answered."""
        return self._question.latest(_ANSWER)

    def trouble(self) -> str:
        """Say that SLURM does not answer."""
        return f"SLURM has not answered for {_LIMIT:.0f} s" if self._question.silence > _LIMIT else ""

    def cancel(self, numbers: Sequence[int]) -> None:
        """End jobs."""
        if not numbers or self._silent:
            return
        try:
            within(_LIMIT, lambda: self._cancel(numbers))
        except TimeoutError:
            self._silent = True
            ids = " ".join(str(self._jobs[number].job_id) for number in numbers)
            warnings.warn(
                f"SLURM has not answered for {_LIMIT:.0f} s; jobs that are left end by themselves once they "
                f"run, or now by: scancel {ids}",
                stacklevel=2,
            )

    def close(self) -> None:
        """End all."""
        self.cancel([number for number in self._jobs if number not in self._question.answer])

    def _ended(self) -> Mapping[int, str]:
        return {number: self._failure(job) for number, job in self._jobs.items() if job.done()}

    def _cancel(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            # one that is over
            with suppress(Exception):
                self._jobs[number].cancel(check=False)

    def _parameters(self) -> dict[str, Any]:
        options = self._options
        named = {name: getattr(options, name) for name in ("partition", "account", "qos", "constraint")}
        parameters = {f"slurm_{name}": value for name, value in named.items() if value is not None}
        if options.memory is not None:
            parameters["mem_gb"] = options.memory
        if self._gpus:
            # clusters without GPUs refuse any number
            parameters["gpus_per_node"] = self._gpus
        return {
            **parameters,
            "name": "composer",
            "timeout_min": max(1, math.ceil(options.time / 60)),
            "cpus_per_task": self._cpus,
            "slurm_array_parallelism": options.parallel,
            "slurm_signal_delay_s": int(options.warning),
        }

    def _failure(self, job: Any) -> str:
        printed = (job.stderr() or "").strip().splitlines()
        message = f"job {job.job_id} is over ({job.state})"
        return f"{message}: {printed[-1]}" if printed else message


@dataclass(frozen=True)
class SlurmPlan:
    """See `Plan`."""

    count: int
    gpus: int
    cpus: int
    options: SlurmOptions
    note: str = ""
    here = False

    def __str__(self) -> str:
        each = f"{self.gpus} GPU{'s' if self.gpus > 1 else ''} and " if self.gpus else ""
        return f"{self.count} SLURM job{'s' if self.count > 1 else ''}, {each}{self.cpus} CPU each"

    def start(self, job: Job) -> RemoteCrew:
        """Return the workers."""
        tasks = SlurmTasks(self.options, self.gpus, self.cpus, job.folder / LOGS)
        host = self.options.host or socket.gethostname()
        threads = {"OMP_NUM_THREADS": str(self.cpus)}
        return RemoteCrew(tasks, job, self.count, threads, host, "waiting in the queue")


def _plan(need: Need, workers: int | None, options: SlurmOptions) -> SlurmPlan:
    if workers is None:
        raise SearchError("--launcher slurm: expected the number of jobs, --workers N, got none")
    specs, _ = need.sample()
    gpus = options.gpus if options.gpus is not None else 0 if options.cluster == "local" else None
    if gpus is None:
        gpus = devices_of(specs[0]) or 1
    cpus = options.cpus or max(map(threads_of, specs))
    return SlurmPlan(workers, gpus, cpus, options)


LAUNCHER = Launcher(
    "a SLURM job array, by submitit",
    _plan,
    SlurmOptions,
    needs="submitit",
    install="'attention-composer[submitit]'",
)
