"""Tasks on a Ray cluster, one for each worker; Ray starts those of a lost node again elsewhere."""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from signal import getsignal, signal
from typing import Any, Literal

from pydantic import Field

from composer.language.schema.spec import Spec
from composer.settings.errors import first_line
from composer.training.processes.interrupt import SIGNALS
from search.errors import SearchError
from search.launch.agent import Agent, Call, WorkerKilled
from search.launch.launcher import Launcher, Need, Options
from search.launch.remote import RemoteCrew
from search.run.worker_plan import devices_of, threads_of
from search.run.worker_process import Job

_ANSWER = 10.0
"""Seconds within which a cluster accepts a connection."""


class RayOptions(Options):
    """The resources that a worker reserves on a Ray cluster."""

    address: str = "auto"
    """The cluster, `HOST:PORT`; `auto` is the one that runs on this machine, or that RAY_ADDRESS names."""
    gpus: float | None = Field(default=None, ge=0)
    """GPUs of a worker. By default as many as a run trains on, or none if the cluster has none."""
    cpus: float | None = Field(default=None, gt=0)
    """CPU cores of a worker. By default as many as a run has threads."""
    memory: int | None = Field(default=None, gt=0)
    """Memory of a worker in GiB, by which Ray places it; by default none is asked for."""
    accelerator: str | None = None
    """The kind of GPU, such as A100."""
    placement: Literal["spread", "pack"] = "spread"
    """Whether workers are spread over the nodes, or fill one after the other."""
    retries: int = Field(default=3, ge=-1)
    """How often a worker is started again after it, its task or its node was lost; -1 for always."""
    host: str | None = None
    """The name or address of this machine as the nodes reach it; by default that by which Ray knows it."""


class RayTasks:
    """See `Tasks`."""

    def __init__(self, options: RayOptions, gpus: float, cpus: float) -> None:
        self._options, self._gpus, self._cpus = options, gpus, cpus
        self._tasks: dict[int, Any] = {}

    def start(self, calls: Sequence[Call]) -> None:
        """Start one task for each call."""
        import ray

        options = self._options
        task = ray.remote(_serve)
        place = {
            "num_cpus": self._cpus,
            "num_gpus": self._gpus,
            "memory": None if options.memory is None else options.memory << 30,
            "accelerator_type": options.accelerator,
            "scheduling_strategy": "SPREAD" if options.placement == "spread" else "DEFAULT",
            "max_retries": options.retries,
            "retry_exceptions": [WorkerKilled],
        }
        for call in calls:
            named = task.options(name=f"composer-{call.number}", **place)
            self._tasks[call.number] = named.remote(call)

    def over(self) -> Mapping[int, str]:
        """Return which tasks are over."""
        import ray

        numbers = {task: number for number, task in self._tasks.items()}
        if not numbers:
            return {}
        ready, _ = ray.wait(list(numbers), num_returns=len(numbers), timeout=0)
        return {numbers[task]: _failure(task) for task in ready}

    def trouble(self) -> str:
        """Return "": the cluster's own processes say what is wrong."""
        return ""

    def cancel(self, numbers: Sequence[int]) -> None:
        """End tasks."""
        import ray

        for number in numbers:
            # one that is over, or whose cluster is gone
            with suppress(Exception):
                ray.cancel(self._tasks[number], force=True)

    def close(self) -> None:
        """End all, and leave the cluster."""
        import ray

        self.cancel(list(self._tasks))
        self._tasks.clear()
        ray.shutdown()


@dataclass(frozen=True)
class RayPlan:
    """See `Plan`."""

    count: int
    gpus: float
    cpus: float
    options: RayOptions
    host: str
    note: str = ""
    here = False

    def __str__(self) -> str:
        each = f"{self.gpus:g} GPU{'' if self.gpus == 1 else 's'}" if self.gpus else f"{self.cpus:g} CPU"
        return f"{self.count} Ray worker{'s' if self.count > 1 else ''}, {each} each"

    def start(self, job: Job) -> RemoteCrew:
        """Return the workers."""
        threads = {"OMP_NUM_THREADS": str(max(1, int(self.cpus)))}
        tasks = RayTasks(self.options, self.gpus, self.cpus)
        return RemoteCrew(tasks, job, self.count, threads, self.host, "waiting for a place on the cluster")


def _plan(need: Need, workers: int | None, options: RayOptions) -> RayPlan:
    specs, _ = need.sample()
    runs = math.inf if workers is not None else need.runs()
    connect(options.address)
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = options.gpus if options.gpus is not None else _gpus(specs[0], nodes)
    cpus = options.cpus if options.cpus is not None else max(map(threads_of, specs))
    room = sum(_room(node, gpus, cpus) for node in nodes)
    if not room:
        ray.shutdown()
        raise SearchError(
            f"--launcher ray: no node of the cluster has the {gpus:g} GPUs and {cpus:g} CPUs of a worker; "
            "set --launch gpus= and --launch cpus="
        )
    count = workers or int(max(1, min(room, runs)))
    note = f"the cluster has room for {room} of {count} workers; the others wait" if count > room else ""
    host = options.host or ray.util.get_node_ip_address()
    return RayPlan(count, gpus, cpus, options, host, note)


def connect(address: str) -> None:
    """Connect to a running cluster.

    Raises:
        SearchError: there is none, or it can only be reached through Ray Client.
    """
    if address.startswith("ray://"):
        raise SearchError(
            f"--address: expected HOST:PORT of the cluster, got {address}; workers connect to the command, "
            "so run it on a node of the cluster, for example with `ray job submit`"
        )
    _refuse_silent(address)
    import ray

    _silence()
    with _same_signals():
        try:
            ray.init(address=address, log_to_driver=False, configure_logging=False, logging_level="ERROR")
        except (ConnectionError, RuntimeError, ValueError, AssertionError) as error:
            message = f"--address: expected a running Ray cluster at {address}: {first_line(error)}"
            raise SearchError(message) from None


def _refuse_silent(address: str) -> None:
    """Refuse an address where nothing listens, for which Ray itself waits several minutes."""
    named = os.environ.get("RAY_ADDRESS", "") if address == "auto" else address
    host, _, port = named.rpartition(":")
    if not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER).close()
    except OSError as error:
        reason = error.strerror or first_line(error)
        raise SearchError(f"--address: expected a running Ray cluster at {named}: {reason}") from None


def _silence() -> None:
    """Keep Ray from printing about lost nodes to stdout, which `--json` promises to hold events alone."""
    from ray._private import worker

    if hasattr(worker, "print_to_stdstream"):
        worker.print_to_stdstream = lambda *printed, **more: None


@contextmanager
def _same_signals() -> Iterator[None]:
    """Keep the handlers of this process; Ray would set its own."""
    before = {number: getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:
                signal(number, handler)


def _serve(call: Call) -> None:
    Agent()(call)


def _failure(task: Any) -> str:
    """Return why a task failed; empty if it did not."""
    import ray

    try:
        ray.get(task)
    except ray.exceptions.RayTaskError as error:
        return first_line(error.cause)
    except ray.exceptions.RayError as error:
        return f"{type(error).__name__}: {first_line(error)}"
    return ""


def _gpus(spec: Spec, nodes: Sequence[Mapping[str, float]]) -> float:
    most = max((node.get("GPU", 0.0) for node in nodes), default=0.0)
    return min(most, devices_of(spec) or most)


def _room(node: Mapping[str, float], gpus: float, cpus: float) -> int:
    """Return how many workers a node has room for."""
    by_gpus = node.get("GPU", 0.0) / gpus if gpus else math.inf
    return int(min(node.get("CPU", 0.0) / cpus, by_gpus))


LAUNCHER = Launcher(
    "tasks on a Ray cluster",
    _plan,
    RayOptions,
    needs="ray",
    install="'attention-composer[ray]'",
)
