"""The strategy of `train.strategy: fsdp`, whose checkpoints are those of any other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map_only

from composer.training.checkpoint import read_checkpoint


class Sharded(ModelParallelStrategy):
    """Weights, gradients and optimizer states sharded over all ranks (FSDP2), whole in checkpoints.

    Lightning's own writes optimizer states in another order than without shards, where parameters are in
    groups, and unpickles whatever a checkpoint holds.
    """

    def __init__(self, ranks: int, backend: str) -> None:
        """`backend` is that of torch.distributed."""
        super().__init__(ranks, 1, save_distributed_checkpoint=False, process_group_backend=backend)

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Whether a Trainer asks for the optimizer's state to be loaded, as with other strategies."""
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Return whole weights, on the CPU; called by all ranks."""
        assert self.lightning_module is not None
        return whole(self.lightning_module.state_dict())

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        """Return whole states, on the CPU; called by all ranks."""
        return whole(optimizer.state_dict())

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint, its tensors mapped from the file."""
        return read_checkpoint(Path(checkpoint_path))

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Load this rank's part of whole weights."""
        model = self.lightning_module
        assert model is not None
        own = model.state_dict()
        given = checkpoint["state_dict"]
        parts = {name: part_of(given[name], own[name]) if name in own else given[name] for name in given}
        model.load_state_dict(parts, strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Load this rank's part of whole states."""
        for optimizer, given in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            weights = [weight for group in optimizer.param_groups for weight in group["params"]]
            state = {
                n: {key: part_of(value, weights[n]) for key, value in values.items()}
                for n, values in given["state"].items()
            }
            optimizer.load_state_dict({**given, "state": state})


def whole(state: dict[str, Any]) -> dict[str, Any]:
    """Return a state with its sharded tensors gathered, all on the CPU; called by all ranks."""
    state = tree_map_only(DTensor, lambda tensor: tensor.full_tensor(), state)
    found: dict[str, Any] = tree_map_only(Tensor, lambda tensor: tensor.detach().cpu(), state)
    return found


def part_of(given: Any, own: Tensor) -> Any:
    """Return this rank's part of a whole tensor, if it is of the shape of one that is sharded."""
    if isinstance(own, DTensor) and torch.is_tensor(given) and given.shape == own.shape:
        # each rank has read the whole: nothing to be sent
        return distribute_tensor(given.to(own.device), own.device_mesh, own.placements, src_data_rank=None)
    return given
