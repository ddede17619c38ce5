"""The strategy of `train.strategy: fsdp`, whose checkpoints are those of any other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from composer.training.folder.checkpoint import read_checkpoint
from composer.training.processes.watch import limit

_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


class Sharded(ModelParallelStrategy):
    """Weights, gradients and optimizer states sharded over all ranks (FSDP2), whole in checkpoints.

    Lightning's own writes optimizer states in another order than without shards, where parameters are in
    groups, and unpickles whatever a checkpoint holds.
    """

    def __init__(self, ranks: int, backend: str) -> None:
        """`backend` is that of torch.distributed."""
        super().__init__(
            ranks, 1, save_distributed_checkpoint=False, process_group_backend=backend, timeout=limit()
        )

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Whether a Trainer asks for the optimizer's state to be loaded, as with other strategies."""
        return True

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        """Return whole states on the CPU to rank 0, and nothing to the others; called by all ranks."""
        state: dict[str, Any] = get_optimizer_state_dict(self._module, optimizer, options=_WHOLE)
        return numbered(state) if self.is_global_zero else {}

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint, its tensors mapped from the file."""
        return read_checkpoint(Path(checkpoint_path))

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Load this rank's part of whole weights, which each rank has read."""
        options = StateDictOptions(full_state_dict=True, strict=strict)
        set_model_state_dict(self._module, dict(checkpoint["state_dict"]), options=options)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Load this rank's part of whole states, which each rank has read."""
        options = StateDictOptions(full_state_dict=True)
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            set_optimizer_state_dict(
                self._module, optimizer, named(state, self._names(optimizer)), options=options
            )

    @property
    def _module(self) -> torch.nn.Module:
        assert self.lightning_module is not None
        return self.lightning_module

    def _names(self, optimizer: torch.optim.Optimizer) -> list[str]:
        """Return the names of the optimizer's parameters, group by group."""
        names = {id(parameter): name for name, parameter in self._module.named_parameters()}
        return [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]


def numbered(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return an optimizer's state with its parameters numbered in their order, as without shards."""
    groups: list[dict[str, Any]] = []
    numbers: dict[str, int] = {}
    for group in state["param_groups"]:
        numbers.update({name: len(numbers) + n for n, name in enumerate(group["params"])})
        groups.append({**group, "params": [numbers[name] for name in group["params"]]})
    return {
        "state": {numbers[name]: values for name, values in state["state"].items()},
        "param_groups": groups,
    }


def named(state: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return an optimizer's state with the names of its parameters in the place of their numbers."""
    return {
        "state": {names[number]: values for number, values in state["state"].items()},
        "param_groups": [
            {**group, "params": [names[number] for number in group["params"]]}
            for group in state["param_groups"]
        ],
    }
