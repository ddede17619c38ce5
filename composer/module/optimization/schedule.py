"""The learning rate schedule of `train.schedule`."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from composer.language.schema.spec import Train


def schedule(train: Train, step: int) -> float:
    """Return the learning rate / `lr` at optimizer step `step`, from 0: linear warmup, stable, decay to 0."""
    warmup, decay = warmup_steps(train), train.steps - decay_start(train)
    rising = (step + 1) / warmup if warmup else 1.0
    left = (train.steps - step) / decay if decay else 1.0
    return max(0.0, min(1.0, rising, _falling(train.schedule.shape, min(left, 1.0))))


def _falling(shape: str, left: float) -> float:
    """Return the learning rate / `lr` when a fraction `left` of the decay remains, from 1 to 0."""
    match shape:
        case "sqrt":
            return 1 - math.sqrt(1 - max(left, 0.0))
        case "cosine":
            return (1 - math.cos(math.pi * left)) / 2
    return left


def warmup_steps(train: Train) -> int:
    """Return the number of optimizer steps of the warmup."""
    return round(train.schedule.warmup * train.steps)


def decay_start(train: Train) -> int:
    """Return the number of optimizer steps before the decay."""
    return train.steps - train.decay_steps


def warmup_stable_decay(optimizer: Optimizer, train: Train) -> LambdaLR:
    """Return the warmup-stable-decay schedule (arXiv 2404.06395)."""
    return LambdaLR(optimizer, lambda step: schedule(train, step))
