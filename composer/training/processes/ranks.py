"""Several processes that train one run on one machine.

The current process is rank 0, whatever program it is; the others are started here and run only
the training, so a search or a notebook can use several devices too.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from torch._C._distributed_c10d import HashStore, Store, TCPStore

from composer.graph.passes.choose_kernels import Kernels
from composer.module.capture.recorder import CudaGraphChoice
from composer.module.emission.code import TorchCompile
from composer.training.folder.errors import TrainingError
from composer.training.processes.interrupt import Stop, held_back
from composer.training.processes.watch import LIMIT, Watch, limit

_HOST = "127.0.0.1"


class OneMachine(LightningEnvironment):
    """Tells Lightning the ranks, which are started and connected here."""

    def __init__(self, rank: int, ranks: int, store: Store, watch: Watch | None = None) -> None:
        """`store` is the store of the process group; `watch` is rank 0's."""
        super().__init__()
        self._rank, self._ranks, self._store, self._watch = rank, ranks, store, watch

    nodes = 1

    @property
    def plugin(self) -> OneMachine:
        """Lightning's environment, which knows this process's rank: this object."""
        return self

    def join(self, backend: str, stop: Stop) -> None:
        """Wait for the other ranks and create the process group.

        Raises:
            TrainingError: one of them failed, or did not join within the limit.
            Interrupted: this process was asked to stop meanwhile.
        """
        if self._rank:
            self._store.set(_arrival(self._rank), "")
        else:
            self._await(stop)
        device = None if backend == "gloo" else torch.device("cuda", self._rank)
        torch.distributed.init_process_group(
            backend,
            store=self._store,
            rank=self._rank,
            world_size=self._ranks,
            timeout=limit(),
            device_id=device,
        )

    def _await(self, stop: Stop) -> None:
        # in Python, so that signals and dead ranks are noticed at once
        until = time.monotonic() + limit().total_seconds()
        for rank in range(1, self._ranks):
            while not self._store.check([_arrival(rank)]):
                stop.check()
                assert self._watch is not None
                if failure := self._watch.failure():
                    raise TrainingError(f"{self._watch.folder}: {failure}")
                if time.monotonic() > until:
                    late = f"rank {rank} did not start within {limit().total_seconds():.0f} s ({LIMIT})"
                    raise TrainingError(f"{self._watch.folder}: {late}")
                time.sleep(0.05)

    @property
    def creates_processes_externally(self) -> bool:
        """Whether the ranks are not started by Lightning: yes."""
        return True

    @property
    def main_address(self) -> str:
        """The address of rank 0."""
        return _HOST

    def world_size(self) -> int:
        """Return the number of ranks."""
        return self._ranks

    def set_world_size(self, size: int) -> None:
        """Do nothing: the number is known."""
        assert size == self._ranks

    def local_rank(self) -> int:
        """Return this process's rank, which is also its device index."""
        return self._rank

    def node_rank(self) -> int:
        """Return 0, since there is one machine."""
        return 0

    def teardown(self) -> None:
        """Leave the environment variables as they are."""


def other_rank(rank: int, ranks: int, port: int) -> OneMachine:
    """Return the environment of another rank, which connects to rank 0 at a port of this machine."""
    return OneMachine(rank, ranks, TCPStore(_HOST, port, ranks, False, timeout=limit()))


@contextmanager
def started(
    folder: Path,
    until_tokens: int | None,
    ranks: int,
    kernels: Kernels,
    torch_compile: TorchCompile,
    loggers: Sequence[str] = (),
    cuda_graph: CudaGraphChoice = "off",
) -> Iterator[OneMachine]:
    """Start the other ranks for the run in `folder`, and end them with the context.

    Raises:
        TrainingError: a rank failed, or the ranks waited for each other longer than the limit.
    """
    if ranks == 1:
        try:
            yield OneMachine(0, 1, HashStore())
        finally:
            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()
        return
    store = TCPStore(_HOST, 0, ranks, True, timeout=limit(), wait_for_workers=False)
    until = [] if until_tokens is None else [str(until_tokens)]
    places = [(str(rank), str(ranks), str(store.port)) for rank in range(1, ranks)]
    with held_back():
        # the end of their standard input tells them that this process is gone
        others = [
            subprocess.Popen(
                [
                    *(sys.executable, "-m", "composer.training.rank", str(folder), *place),
                    *(kernels, torch_compile, ",".join(loggers), cuda_graph, *until),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            )
            for place in places
        ]
    watch = Watch(folder, others)
    try:
        yield OneMachine(0, ranks, store, watch)
    except RuntimeError as error:
        # a failing rank breaks the connections of the others
        if failure := watch.failure(wait=5.0):
            raise TrainingError(f"{folder}: {failure}; earlier checkpoints are intact") from error
        if _timed_out(error):
            seconds = f"{limit().total_seconds():.0f} s"
            raise TrainingError(
                f"{folder}: the ranks waited for each other longer than {seconds}; earlier checkpoints are "
                f"intact. Set {LIMIT} to more seconds if a step takes that long"
            ) from error
        raise
    finally:
        watch.close()


def _timed_out(error: RuntimeError) -> bool:
    return any(words in str(error).lower() for words in ("timed out", "timeout"))


def _arrival(rank: int) -> str:
    return f"rank {rank} is here"
