"""The number of workers that a search starts on this machine, and the resources of each."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from composer.costs.base.units import bytes_text
from composer.language.schema.spec import Spec
from composer.language.space import Space
from composer.training.processes.threads import is_worth_sharing
from search.run.machine import available_cores, available_memory, visible_gpus
from search.run.preview import preview

if TYPE_CHECKING:
    from search.run.local_workers import LocalWorkers
    from search.run.worker_process import Job

THREADS = 4
"""Threads of a large run, unless OMP_NUM_THREADS is set."""
PROCESS = 512 << 20
"""Memory of a worker besides its run, in bytes: Python, torch and Lightning."""
_SAMPLE = 32
"""Number of random points by which the runs of a space are judged."""


@dataclass(frozen=True)
class WorkerPlan:
    """The workers of one command.

    Attributes:
        count: number of workers; 1 means this process itself.
        threads: CPU threads that each may use.
        gpus: for each worker the value of CUDA_VISIBLE_DEVICES; empty without GPUs.
        note: what limits them or may go wrong, as text; may be empty.
    """

    count: int
    threads: int
    gpus: tuple[str, ...] = ()
    note: str = ""

    def __str__(self) -> str:
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''} each"
        shares = f"GPUs {' and '.join(dict.fromkeys(self.gpus))}" if self.gpus else threads
        return f"{self.count} workers, {shares}"

    @property
    def here(self) -> bool:
        """Whether there is one, which is the process of the command itself."""
        return self.count == 1

    def start(self, job: Job) -> LocalWorkers:
        """Return the workers, which start as the context is entered."""
        from search.run.local_workers import LocalWorkers

        return LocalWorkers(self, job)

    def environment(self, number: int) -> dict[str, str]:
        """Return the environment variables of a worker, numbered from 0."""
        gpu = {"CUDA_VISIBLE_DEVICES": self.gpus[number]} if self.gpus else {}
        return {"OMP_NUM_THREADS": str(self.threads), **gpu}


def plan_workers(sample: Callable[[], tuple[list[Spec], int]], asked: int | None, runs: float) -> WorkerPlan:
    """Plan the workers of a search or a study on this machine.

    By default there is one for each GPU, or as many as the cores can run side by side; no more than fit into
    memory (on a CPU), and no more than there are runs left.

    Args:
        sample: returns specs like those that they train, and the bytes that training one may take.
        asked: the number that the user asked for, or None for the default.
        runs: how many runs are left at most.
    """
    if asked == 1 or runs <= 1:
        return WorkerPlan(1, _limited(available_cores()))
    specs, memory = sample()
    gpus = _shared_out(visible_gpus(), specs[0])
    count, note = asked or _default(specs, gpus), ""
    if not gpus:
        count, note = _within_memory(count, memory, asked is not None)
    count = max(1, count if asked else int(min(count, runs)))
    groups = tuple(gpus[number % len(gpus)] for number in range(count)) if gpus and count > 1 else ()
    return WorkerPlan(count, _limited(available_cores() // count), groups, note)


def sample_of(space: Space) -> tuple[list[Spec], int]:
    """Return specs of the space, and the bytes that training one of them may take."""
    points = [point for point in preview(space, _SAMPLE).points if point.verdict == "feasible"]
    example = space.example().spec
    specs = [example, *(point.spec for point in points if point.spec is not None)]
    cap = example.caps.limit("train_memory")
    known = max((point.costs.get("train_memory", 0.0) for point in points), default=0.0)
    return specs, int(known if cap is None else cap)


def devices_of(spec: Spec) -> int | None:
    """Return how many GPUs a run of the spec trains on; None for all that it sees."""
    assert spec.train is not None
    if isinstance(spec.train.devices, int):
        return spec.train.devices
    return 1 if spec.train.strategy == "auto" else None


def _default(specs: list[Spec], gpus: list[str]) -> int:
    return len(gpus) if gpus else max(1, available_cores() // max(map(threads_of, specs)))


def threads_of(spec: Spec) -> int:
    """Return the number of threads that training a spec keeps busy."""
    assert spec.train is not None
    processes = spec.train.devices if isinstance(spec.train.devices, int) else 1
    if not is_worth_sharing(spec.train.tokens_per_step // spec.train.accumulate * spec.model.width):
        return processes
    return processes * _limited(THREADS)


def _limited(threads: int) -> int:
    """Limit a number of threads to what the user allows, at least 1."""
    allowed = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(threads, int(allowed)) if allowed.isdecimal() else threads)


def _shared_out(gpus: list[str], spec: Spec) -> list[str]:
    """Return the GPUs of each worker: one, or as many as a run uses."""
    each = devices_of(spec) or len(gpus)
    # if there are too few for a run, the run reports it
    each = max(1, min(each, len(gpus)))
    return [",".join(gpus[first : first + each]) for first in range(0, len(gpus) - each + 1, each)]


def _within_memory(count: int, run: int, wanted: bool) -> tuple[int, str]:
    """Return how many of `count` workers fit into memory (`wanted` ones in any case), and a note."""
    room = available_memory()
    fits = max(1, room // (run + PROCESS))
    if count <= fits:
        return count, ""
    need = f"a run may take {bytes_text(run)} (train_memory) and its process {bytes_text(PROCESS)}"
    if wanted:
        message = f"{count} workers may need {bytes_text(count * (run + PROCESS))}, more than the"
        return count, f"{message} {bytes_text(room)} of free memory, enough for {fits}: {need}"
    noun = "worker" if fits == 1 else "workers"
    return fits, f"{fits} {noun} instead of {count}: {need}, and {bytes_text(room)} of memory are free"
