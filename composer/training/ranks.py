"""Several processes that train one run on one machine.

The process that was started is rank 0, whatever program it is; the others are started here and run nothing
but the training, so a search or a notebook can use several devices too.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment

from composer.graph.passes.choose_kernels import Kernels
from composer.module.code import TorchCompile
from composer.training.errors import TrainingError


class OneMachine(LightningEnvironment):
    """Tells Lightning the ranks, which it neither starts nor looks for in environment variables."""

    def __init__(self, rank: int, ranks: int, port: int) -> None:
        super().__init__()
        self._rank, self._ranks, self._main_port = rank, ranks, port

    @property
    def creates_processes_externally(self) -> bool:
        """Whether the ranks are started by others than Lightning."""
        return True

    @property
    def main_address(self) -> str:
        """Where rank 0 listens."""
        return "127.0.0.1"

    def world_size(self) -> int:
        """Return the number of ranks."""
        return self._ranks

    def set_world_size(self, size: int) -> None:
        """Nothing to set: the number is known."""
        assert size == self._ranks

    def local_rank(self) -> int:
        """Return this process's rank, which is also the number of its device."""
        return self._rank

    def node_rank(self) -> int:
        """Return 0: there is one machine."""
        return 0

    def teardown(self) -> None:
        """Leave the environment variables as they are."""


@contextmanager
def started(
    folder: Path, until_tokens: int | None, ranks: int, kernels: Kernels, torch_compile: TorchCompile
) -> Iterator[OneMachine]:
    """Start ranks 1 and up for the run in `folder`, and end them with the context."""
    port = _free_port()
    until = [] if until_tokens is None else [str(until_tokens)]
    # they see by the end of their standard input that this process is gone
    others = [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "composer.training.rank",
                str(folder),
                str(rank),
                str(ranks),
                str(port),
                kernels,
                torch_compile,
                *until,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
        for rank in range(1, ranks)
    ]
    try:
        yield OneMachine(0, ranks, port)
    except RuntimeError as error:
        # a rank that fails takes the connections of the others with it
        if failed := [rank for rank, process in enumerate(others, start=1) if _ended(process)]:
            raise TrainingError(f"{folder}: rank {failed[0]} failed, as it says above") from error
        raise
    finally:
        for process in others:
            assert process.stdin is not None
            process.stdin.close()
            process.wait()
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def _ended(process: subprocess.Popen[bytes]) -> bool:
    with contextlib.suppress(subprocess.TimeoutExpired):
        return process.wait(timeout=5) != 0
    return False


def _free_port() -> int:
    with contextlib.closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
