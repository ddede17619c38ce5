"""Norms of gradients and updates of each block, for loggers."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import lightning
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm


class BlockNorms(lightning.Callback):
    """Logs `gradient_norm/PLACE` and `update_norm/PLACE` of each block, to all loggers of a Trainer.

    Gradient norms are measured before clipping; an update is the change of the weights by an optimizer step.
    A place is a module with weights, such as `stages.0.step.1.expert`, or the name of a weight outside of
    such modules. Logged steps hold a second copy of the weights.
    """

    def __init__(self, every: int = 50) -> None:
        """Log every `every` optimizer steps."""
        self.every = every
        self._before: dict[str, Tensor] = {}
        self._norms: dict[str, float] = {}

    def on_before_optimizer_step(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        """Measure the gradients, and keep the weights."""
        if (trainer.global_step + 1) % self.every or not trainer.loggers:
            return
        weights = dict(pl_module.named_parameters())
        gradients = {name: weight.grad for name, weight in weights.items() if weight.grad is not None}
        self._norms = _by_block("gradient_norm", gradients)
        self._before = {name: weight.detach().clone() for name, weight in weights.items()}

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Measure the update, and log both."""
        if not self._before:
            return
        after = dict(pl_module.named_parameters())
        updates = {name: after[name].detach() - before for name, before in self._before.items()}
        norms = self._norms | _by_block("update_norm", updates)
        self._before, self._norms = {}, {}
        for logger in trainer.loggers:
            logger.log_metrics(norms, step=trainer.global_step)


def _by_block(what: str, tensors: dict[str, Tensor]) -> dict[str, float]:
    by_place: dict[str, list[Tensor]] = defaultdict(list)
    for name, tensor in tensors.items():
        by_place[name.rpartition(".")[0] or name].append(tensor)
    return {f"{what}/{place}": _norm(each) for place, each in by_place.items()}


def _norm(tensors: list[Tensor]) -> float:
    norm = get_total_norm(tensors)
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
