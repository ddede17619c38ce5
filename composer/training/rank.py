"""The program of ranks other than 0: it trains with rank 0 and ends with it."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

import torch

from composer.data.base.errors import DataError
from composer.graph.passes.choose_kernels import Kernels
from composer.module.capture.recorder import CudaGraphChoice
from composer.module.emission.code import TorchCompile
from composer.training.data.datamodule import datamodule
from composer.training.folder.errors import TrainingError
from composer.training.folder.run_folder import read_spec
from composer.training.processes.interrupt import Stop, let_through
from composer.training.processes.ranks import other_rank
from composer.training.run import fit, plan_here


def _leave_with_parent() -> None:
    os.read(sys.stdin.fileno(), 1)  # returns when the other end is gone
    os._exit(1)


def _main(
    folder: str,
    rank: str,
    ranks: str,
    port: str,
    kernels: Kernels,
    torch_compile: TorchCompile,
    loggers: str,
    cuda_graph: CudaGraphChoice,
    until_tokens: str | None = None,
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    until, stop = None if until_tokens is None else int(until_tokens), Stop()
    try:
        with stop.listening():
            let_through()
            environment = other_rank(int(rank), int(ranks), int(port))
            spec = read_spec(Path(folder))
            plan = plan_here(spec, kernels)
            names = loggers.split(",") if loggers else []
            data = datamodule(spec)
            fit(plan, Path(folder), until, environment, data, None, torch_compile, stop, names, cuda_graph)
    except (TrainingError, DataError, OSError, RuntimeError) as error:
        sys.exit(f"rank {rank}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


if __name__ == "__main__":
    _main(*sys.argv[1:])  # type: ignore[arg-type]
