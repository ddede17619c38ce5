"""The strategy of `train.strategy: fsdp`, whose checkpoints are those of any other.

Above a size the optimizer's states are not gathered for them: each rank writes its part, by
torch.distributed.checkpoint, into a folder beside the checkpoint, which names it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from composer.training.folder.checkpoint import read_checkpoint
from composer.training.folder.errors import TrainingError
from composer.training.processes.watch import limit

SHARD_ABOVE = "COMPOSER_SHARD_ABOVE"
"""The environment variable that sets the bytes of a checkpoint above which ranks write their own parts."""

_DEFAULT_BYTES = 8 << 30
_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)
_PARTS = StateDictOptions(cpu_offload=True)
_SHARDS = "shards"


def are_too_large(saved: int) -> bool:
    """Return whether checkpoints of so many bytes are written in parts.

    Raises:
        TrainingError: COMPOSER_SHARD_ABOVE is not a number of bytes.
    """
    text = os.environ.get(SHARD_ABOVE)
    if text is not None and not (text.isascii() and text.isdigit()):
        raise TrainingError(f"{SHARD_ABOVE}: expected a number of bytes, got {text!r}")
    return saved > (_DEFAULT_BYTES if text is None else int(text))


class Sharded(ModelParallelStrategy):
    """Weights, gradients and optimizer states sharded over all ranks (FSDP2), whole in checkpoints.

    Lightning's own writes optimizer states in another order than without shards, where parameters are in
    groups, and unpickles whatever a checkpoint holds.
    """

    def __init__(self, ranks: int, backend: str, in_parts: bool = False) -> None:
        """`backend` is that of torch.distributed; with `in_parts` each rank saves its part of the states."""
        self._in_parts, self._folder = in_parts, Path()
        super().__init__(
            ranks, 1, save_distributed_checkpoint=False, process_group_backend=backend, timeout=limit()
        )

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Whether a Trainer asks for the optimizer's state to be loaded, as with other strategies."""
        return True

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        """Return whole states on the CPU to rank 0, and nothing to the others; called by all ranks.

        In parts these are the states by the names of weights, each rank's own.
        """
        if self._in_parts:
            return {_SHARDS: get_optimizer_state_dict(self._module, optimizer, options=_PARTS)}
        state: dict[str, Any] = get_optimizer_state_dict(self._module, optimizer, options=_WHOLE)
        return numbered(state) if self.is_global_zero else {}

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None
    ) -> None:
        """Write a checkpoint, before it the parts of the optimizer's states; called by all ranks.

        Parts are written under the number of the optimizer step, and earlier ones removed once the checkpoint
        that names the new ones is there.
        """
        path, states = Path(filepath), checkpoint.get("optimizer_states", ())
        if self._in_parts and states:
            shards = path.with_name(f"{path.stem}-{checkpoint['global_step']}.{_SHARDS}")
            parts = {str(number): state[_SHARDS] for number, state in enumerate(states)}
            if self.is_global_zero and shards.exists():
                shutil.rmtree(shards)  # of this step before the run was put back
            self.barrier()
            state_dict_saver.save(parts, checkpoint_id=shards)
            checkpoint["optimizer_states"] = [{_SHARDS: shards.name} for _ in states]
            super().save_checkpoint(checkpoint, filepath, storage_options)
            if self.is_global_zero:
                for old in path.parent.glob(f"{path.stem}-*.{_SHARDS}"):
                    shutil.rmtree(old) if old != shards else None
        else:
            super().save_checkpoint(checkpoint, filepath, storage_options)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint, its tensors mapped from the file."""
        self._folder = Path(checkpoint_path).parent
        return read_checkpoint(Path(checkpoint_path))

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Load this rank's part of whole weights, which each rank has read."""
        options = StateDictOptions(full_state_dict=True, strict=strict)
        set_model_state_dict(self._module, dict(checkpoint["state_dict"]), options=options)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Load this rank's part of the states: of whole ones, which each rank has read, or of the parts.

        Raises:
            TrainingError: the folder of the parts is gone.
        """
        options = StateDictOptions(full_state_dict=True)
        for number, (optimizer, state) in enumerate(
            zip(self.optimizers, checkpoint["optimizer_states"], strict=True)
        ):
            if _SHARDS in state:
                self._load_parts(optimizer, number, self._folder / state[_SHARDS])
                continue
            set_optimizer_state_dict(
                self._module, optimizer, named(state, self._names(optimizer)), options=options
            )

    def _load_parts(self, optimizer: torch.optim.Optimizer, number: int, shards: Path) -> None:
        if not shards.is_dir():
            raise TrainingError(f"{shards}: the optimizer's states of this run are missing")
        parts = {str(number): get_optimizer_state_dict(self._module, optimizer)}
        state_dict_loader.load(parts, checkpoint_id=shards)
        set_optimizer_state_dict(self._module, optimizer, parts[str(number)])

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
