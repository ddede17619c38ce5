"""Plain PyTorch for the model's own operations. x: [batch, sequence, width]; tokens: [batch, sequence]."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from blocks.primitives.reference import wide


def embed(tokens: Tensor, weight: Tensor) -> Tensor:
    """Return the tokens' rows of weight [vocab, width], times sqrt(width)."""
    return F.embedding(tokens, weight) * math.sqrt(weight.shape[1])


def inject_add(x: Tensor, start: Tensor, index: int) -> Tensor:
    """Return x at step 0, later x + start."""
    return x + start if index else x


def inject_concat(x: Tensor, start: Tensor, weight: Tensor) -> Tensor:
    """Return [x, start] times weight [width, 2 * width], in the precision of x."""
    return F.linear(torch.cat((x, start), -1), weight).to(x.dtype)


def mean(*branches: Tensor) -> Tensor:
    """Return the mean of the branches."""
    return torch.stack(branches).mean(0)


def gate(logits: Tensor, *branches: Tensor) -> Tensor:
    """Return the branches weighted by the softmax of logits [batch, sequence, branches]."""
    weights = wide(logits).softmax(-1).to(branches[0].dtype)
    total = weights[..., :1] * branches[0]
    for n, branch in enumerate(branches[1:], start=1):
        total = total + weights[..., n : n + 1] * branch
    return total


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean loss over the targets [batch, sequence] that are not -100, in fp32; 0 where none is."""
    total = F.cross_entropy(wide(logits).flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="sum")
    return total / (targets != -100).sum().clamp(min=1)
