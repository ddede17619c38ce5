"""Ranks that torchrun or SLURM started, on one machine or several, as Lightning recognises them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from composer.training.folder.errors import TrainingError
from composer.training.processes.interrupt import Stop
from composer.training.processes.watch import limit

R = TypeVar("R")


@dataclass(frozen=True)
class Launched:
    """This process as one of several that were started from outside.

    Attributes:
        plugin: Lightning's environment, which knows this process's rank.
        launcher: the program that started it, as text.
        nodes: the number of machines.
    """

    plugin: ClusterEnvironment
    launcher: str
    nodes: int

    def world_size(self) -> int:
        """Return the number of ranks."""
        return self.plugin.world_size()

    def rank(self) -> int:
        """Return the rank of this process."""
        return self.plugin.global_rank()

    def join(self, backend: str, stop: Stop) -> None:
        """Do nothing: the process group is there."""

    @contextmanager
    def joined(self, backend: str | None, devices: int | str) -> Iterator[None]:
        """Create the process group, and leave it with the context.

        Raises:
            TrainingError: `devices`, as the spec says, are not as many as there are ranks.
        """
        if devices not in ("auto", self.world_size()):
            raise TrainingError(
                f"train.devices: expected auto, or the {self.world_size()} ranks of {self.launcher}, "
                f"got {devices}"
            )
        # what torch.distributed reads; torchrun has set the same
        os.environ["MASTER_ADDR"] = self.plugin.main_address
        os.environ["MASTER_PORT"] = str(self.plugin.main_port)
        device = None
        if backend == "nccl":
            device = torch.device("cuda", self.plugin.local_rank())
            torch.cuda.set_device(device)
        torch.distributed.init_process_group(
            backend, rank=self.rank(), world_size=self.world_size(), timeout=limit(), device_id=device
        )
        try:
            yield
        finally:
            torch.distributed.destroy_process_group()

    def share(self, value: Any) -> Any:
        """Return the value of rank 0, on all ranks."""
        box = [value]
        torch.distributed.broadcast_object_list(box, src=0)
        return box[0]


def among_ranks(
    ranks: Launched,
    entered: Callable[[], AbstractContextManager[R | None]],
    work: Callable[[Launched], R],
) -> R:
    """Have rank 0 enter the folder, and all ranks work once it did, unless it finds that all is done.

    Raises:
        TrainingError: rank 0 could not enter the folder.
    """
    if ranks.rank():
        failed, value = ranks.share(None)
        if failed:
            raise TrainingError(f"rank 0 ended: {failed}")
        return work(ranks) if value is None else value
    shared = False
    try:
        with entered() as value:
            ranks.share(("", value))
            shared = True
            return work(ranks) if value is None else value
    except BaseException as error:
        if not shared:
            ranks.share((str(error) or type(error).__name__, None))
        raise


def launched() -> Launched | None:
    """Return how this process was launched with others; None where it is the only one.

    Raises:
        TrainingError: SLURM does not say which of its tasks this is, or how many run on a node.
    """
    if TorchElasticEnvironment.detect():
        environment = Launched(
            TorchElasticEnvironment(), "torchrun", int(os.environ.get("GROUP_WORLD_SIZE", "1"))
        )
    elif "SLURM_NTASKS" in os.environ and SLURMEnvironment.detect():
        if missing := [name for name in ("SLURM_PROCID", "SLURM_LOCALID") if name not in os.environ]:
            raise TrainingError(f"SLURM: expected {missing[0]} in the environment, which srun sets")
        try:
            plugin = SLURMEnvironment()
        except RuntimeError as error:  # --ntasks without --ntasks-per-node
            raise TrainingError(f"SLURM: {error}") from None
        environment = Launched(plugin, "SLURM", int(os.environ.get("SLURM_NNODES", "1")))
    else:
        return None
    return environment if environment.world_size() > 1 else None
