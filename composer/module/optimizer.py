"""AdamW and its schedule, as `train` says."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from composer.language.schema.spec import Train


def adamw(parameters: Iterable[tuple[str, nn.Parameter]], undecayed: set[str], train: Train) -> Optimizer:
    """Return AdamW (arXiv 1711.05101), without decay on norms and biases (`undecayed` names)."""
    decayed: list[nn.Parameter] = []
    spared: list[nn.Parameter] = []
    for name, parameter in parameters:
        (spared if name in undecayed else decayed).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": train.weight_decay},
        {"params": spared, "weight_decay": 0.0},
    ]
    # fused, so that a step needs no memory of its own
    optimizer = torch.optim.AdamW(groups, lr=train.lr, betas=train.betas, fused=True)
    # Lightning takes this for a gradient scaler, and would refuse to clip; there is none in bf16
    optimizer._step_supports_amp_scaling = False
    return optimizer


def schedule(train: Train, step: int) -> float:
    """Return the share of `lr` at optimizer step `step`, from 0: linear warmup, stable, linear decay to 0."""
    warmup, decay = warmup_steps(train), train.steps - decay_start(train)
    rising = (step + 1) / warmup if warmup else 1.0
    falling = (train.steps - step) / decay if decay else 1.0
    return max(0.0, min(1.0, rising, falling))


def warmup_steps(train: Train) -> int:
    """Return over how many optimizer steps the learning rate rises."""
    return round(train.schedule.warmup * train.steps)


def decay_start(train: Train) -> int:
    """Return how many optimizer steps are taken before the learning rate falls."""
    return train.steps - round(train.schedule.decay * train.steps)


def warmup_stable_decay(optimizer: Optimizer, train: Train) -> LambdaLR:
    """Return the warmup-stable-decay schedule (arXiv 2404.06395)."""
    return LambdaLR(optimizer, lambda step: schedule(train, step))
