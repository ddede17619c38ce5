"""The strategy of `train.strategy: fsdp`, whose checkpoints are those of any other.

Above a size nothing is gathered for them: each rank writes its part of weights and optimizer states, by
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
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from composer.module.optimization.average import RAW
from composer.training.folder.checkpoint import SHARDS, read_checkpoint, there
from composer.training.folder.errors import TrainingError
from composer.training.processes.watch import limit

SHARD_ABOVE = "COMPOSER_SHARD_ABOVE"
"""The environment variable that sets the bytes of a checkpoint above which ranks write their own parts."""

_DEFAULT_BYTES = 8 << 30
_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)
_PARTS = StateDictOptions(cpu_offload=True)
_WEIGHTS = ("state_dict", RAW)
"""The keys of weights in a checkpoint: what is evaluated, and beside an average the weights themselves."""


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
        """`backend` is that of torch.distributed; with `in_parts` each rank saves its own part."""
        self._in_parts, self._folder = in_parts, Path()
        super().__init__(
            ranks, 1, save_distributed_checkpoint=False, process_group_backend=backend, timeout=limit()
        )

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Whether a Trainer asks for the optimizer's state to be loaded, as with other strategies."""
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint gets of the weights: all to rank 0, or in parts each rank's own."""
        return get_model_state_dict(self._module, options=_PARTS) if self._in_parts else self.whole_weights()

    def whole_weights(self) -> dict[str, Any]:
        """Return all weights on the CPU to rank 0, and nothing to the others; called by all ranks."""
        return get_model_state_dict(self._module, options=_WHOLE)

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        """Return whole states on the CPU to rank 0, and nothing to the others; called by all ranks.

        In parts these are the states by the names of weights, each rank's own.
        """
        if self._in_parts:
            return {SHARDS: get_optimizer_state_dict(self._module, optimizer, options=_PARTS)}
        state: dict[str, Any] = get_optimizer_state_dict(self._module, optimizer, options=_WHOLE)
        return numbered(state) if self.is_global_zero else {}

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None
    ) -> None:
        """Write a checkpoint, before it the parts of weights and of optimizer states; called by all ranks.

        Parts are written under the number of the optimizer step, and earlier ones removed once the checkpoint
        that names the new ones is there.
        """
        path, states = Path(filepath), checkpoint.get("optimizer_states", ())
        if self._in_parts and states:
            shards = path.with_name(f"{path.stem}-{checkpoint['global_step']}.{SHARDS}")
            parts = {str(number): state[SHARDS] for number, state in enumerate(states)}
            parts |= {key: checkpoint[key] for key in _WEIGHTS if key in checkpoint}
            if self.is_global_zero and shards.exists():
                shutil.rmtree(shards)  # of this step before the run was put back
            self.barrier()
            state_dict_saver.save(parts, checkpoint_id=shards)
            checkpoint |= {key: {} for key in _WEIGHTS if key in checkpoint} | {SHARDS: shards.name}
            checkpoint["optimizer_states"] = [{SHARDS: shards.name} for _ in states]
            super().save_checkpoint(checkpoint, filepath, storage_options)
            if self.is_global_zero:
                for old in path.parent.glob(f"{path.stem}-*.{SHARDS}"):
                    shutil.rmtree(old) if old != shards else None
        else:
            if self._in_parts:  # weights to take away, which nothing goes on from
                checkpoint["state_dict"] = self.whole_weights()
            super().save_checkpoint(checkpoint, filepath, storage_options)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint, its tensors mapped from the file, or this rank's parts of its weights."""
        self._folder = Path(checkpoint_path).parent
        checkpoint = read_checkpoint(Path(checkpoint_path))
        if SHARDS in checkpoint:
            shards = there(self._folder / checkpoint[SHARDS])
            own: dict[str, Any] = get_model_state_dict(self._module)
            parts = {
                key: {name: part.clone() for name, part in own.items()}
                for key in _WEIGHTS
                if key in checkpoint
            }
            state_dict_loader.load(parts, checkpoint_id=shards)
            checkpoint |= parts
        return checkpoint

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Load this rank's part of whole weights, which each rank has read, or the part that it has read."""
        options = StateDictOptions(full_state_dict=SHARDS not in checkpoint, strict=strict)
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
            if SHARDS in state:
                self._load_parts(optimizer, number, there(self._folder / state[SHARDS]))
                continue
            set_optimizer_state_dict(
                self._module, optimizer, named(state, self._names(optimizer)), options=options
            )

    def _load_parts(self, optimizer: torch.optim.Optimizer, number: int, shards: Path) -> None:
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
