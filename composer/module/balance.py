"""Load balancing of experts: after each optimizer step their biases move by the counted loads."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, distributed, nn

from blocks.ir.graph import Graph
from composer.module.emission.emit import resolve
from composer.module.emission.stage import states

_MISSED = 2
"""Optimizer steps without an update after which the user is warned."""


def update_balance(model: nn.Module, graph: Graph, total: Callable[[Tensor], Tensor]) -> None:
    """Update the balancing biases from the loads, summed over ranks by `total`, and reset the loads."""
    for operation, held, counters in states(model, graph):
        for counter in counters:
            counter.copy_(total(counter))
        resolve(operation.update)(*held, **operation.update_arguments())


def over_ranks(counter: Tensor) -> Tensor:
    """Return the sum of a counter over all ranks."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(counter)
    return counter


def moves_biases(model: nn.Module, graph: Graph) -> bool:
    """Return whether the model has balancing biases."""
    updates = (operation.update_arguments() for operation, _, _ in states(model, graph))
    return any(arguments.get("rate", True) for arguments in updates)


UNBALANCED = (
    "experts were trained but never balanced: call model.update_expert_balance() after each "
    "optimizer step, which a lightning.Trainer does by itself (balance_rate: 0 switches it off)"
)
UNSAMPLED = (
    "the spec states other numbers of steps for training, but the model was trained with those of "
    "evaluation: call model.loss(tokens, targets, steps=model.draw_steps(optimizer_step)), as a "
    "lightning.Trainer does"
)


class Reminder:
    """Warns once, with `message`, if weights change for several steps and `updated` is never called."""

    def __init__(self, message: str, wanted: bool) -> None:
        self.message, self.wanted = message, wanted
        self.updated()

    def updated(self) -> None:
        """Record an update."""
        self._version: int | None = None
        self._missed = 0

    def counted(self, model: nn.Module) -> None:
        """Record a training pass."""
        if not self.wanted or torch.compiler.is_compiling():
            return
        trained: Any = next((each for each in model.parameters() if each.requires_grad), None)
        if trained is None or trained.is_inference():
            return
        # an optimizer step in place increments the version of a tensor
        self._missed += self._version not in (None, trained._version)
        self._version = trained._version
        if self._missed >= _MISSED:
            self.wanted = False
            warnings.warn(self.message, stacklevel=4)
