"""torch.optim.AdamW with groups with and without weight decay."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.optim import Optimizer

from blocks.ir.operation import Weight
from blocks.wiring.optimizer import OptimizerChoice


class Trained(NamedTuple):
    """A weight of a model, whether it is in a stage, and its parameter."""

    weight: Weight
    in_stage: bool
    parameter: nn.Parameter


class Rates(NamedTuple):
    """The peak learning rate, the weight decay, and AdamW's betas."""

    lr: float
    weight_decay: float
    betas: tuple[float, float]


def adamw(option: OptimizerChoice, trained: Sequence[Trained], rates: Rates) -> Optimizer:
    """Return AdamW, without decay on norms and biases."""
    # fused needs no workspace
    optimizer = torch.optim.AdamW(groups(trained, rates), lr=rates.lr, betas=rates.betas, fused=True)
    # Lightning takes this for a gradient scaler and would refuse to clip; bf16 has none
    optimizer._step_supports_amp_scaling = False
    return optimizer


def groups(trained: Iterable[Trained], rates: Rates) -> list[dict[str, Any]]:
    """Return two groups of parameters: with weight decay, and without."""
    decayed: list[nn.Parameter] = []
    spared: list[nn.Parameter] = []
    for weight, _, parameter in trained:
        (decayed if weight.decay else spared).append(parameter)
    return [
        {"params": decayed, "weight_decay": rates.weight_decay},
        {"params": spared, "weight_decay": 0.0},
    ]
