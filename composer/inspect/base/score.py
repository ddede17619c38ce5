"""Scores of logits on held-out targets, over all and by group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

ALL = "all"
"""The group of all targets."""


@dataclass(frozen=True)
class Targets:
    """What is scored.

    Attributes:
        tokens: [batch, sequence], -100 where nothing is scored.
        group: [batch], the difficulty of each sequence.
        names: of the groups that occur, by number.
    """

    tokens: Tensor
    group: Tensor
    names: Mapping[int, str]

    @property
    def scored(self) -> Tensor:
        """Return where there is a target: [batch, sequence], bool."""
        return self.tokens != -100

    def masks(self) -> dict[str, Tensor]:
        """Return where there are targets [batch, sequence]: all of them, then those of each group."""
        own = {
            name: self.scored & (self.group == number).unsqueeze(-1) for number, name in self.names.items()
        }
        return {ALL: self.scored} | (own if len(own) > 1 else {})

    def mean(self, values: Tensor) -> dict[str, float]:
        """Return the mean of values [batch, sequence] over the targets, of all and of each group."""
        return {name: values[mask].double().mean().item() for name, mask in self.masks().items()}


@dataclass(frozen=True)
class Score:
    """Scores of one set of logits.

    Attributes:
        loss, accuracy, rank: means over the targets, by group; the rank of the right token is 1 at best, and
            tokens with the same logit share their mean rank.
        right: where the likeliest token is the target: [batch, sequence].
    """

    loss: dict[str, float]
    accuracy: dict[str, float]
    rank: dict[str, float]
    right: Tensor


def score(logits: Tensor, targets: Targets) -> Score:
    """Score logits [batch, sequence, vocab]."""
    logits = logits.float()
    asked = targets.tokens.clamp_min(0)
    loss = F.cross_entropy(logits.flatten(0, 1), asked.flatten(), reduction="none").view_as(asked)
    own = logits.gather(-1, asked.unsqueeze(-1))
    rank = (logits > own).sum(-1) + ((logits == own).sum(-1) + 1) / 2
    right = logits.argmax(-1) == targets.tokens
    return Score(targets.mean(loss), targets.mean(right), targets.mean(rank), right & targets.scored)


def kl(first: Tensor, second: Tensor) -> Tensor:
    """Return KL(first || second) in nats of the distributions of logits [.., vocab]: [..]."""
    p, q = (each.float().log_softmax(-1) for each in (first, second))
    return (p.exp() * (p - q)).sum(-1).clamp_min(0)


def share(part: Tensor, of: Tensor) -> float:
    """Return which share of the places of one mask another has too."""
    return torch.count_nonzero(part & of).item() / max(torch.count_nonzero(of).item(), 1)
