"""Metrics of an evaluation: loss and accuracy, also by difficulty, and bits per byte."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from composer.language.schema.spec import Spec


class Scores:
    """Sums over an evaluation: row g has the loss, correct and count of group g, row -1 of no group."""

    def __init__(self, spec: Spec) -> None:
        """Take group names and bytes per token from the spec's data."""
        data: Any = spec.train.data if spec.train else None
        self.names: Mapping[int, str] = (data.group_names if data else None) or {}
        self.bytes_per_token: float | None = data.bytes_per_token if data else None
        self._metrics: list[str] = data.metrics if data else ["loss", "accuracy"]
        self.sums: Tensor | None = None

    @property
    def metrics(self) -> list[str]:
        """The names of the metrics that `take` returns, in order."""
        return self._metrics

    def add(self, logits: Tensor, targets: Tensor, group: Tensor | None) -> None:
        """Add logits [batch, sequence, vocab] against targets [batch, sequence]; group is [batch] or None."""
        rows = max(self.names, default=-1) + 2
        loss = F.cross_entropy(
            logits.float().flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="none"
        )
        scored = targets != -100
        correct = (logits.argmax(-1) == targets) & scored
        each = torch.stack([loss.view_as(targets).sum(1), correct.sum(1), scored.sum(1)], 1).double()
        named = torch.zeros_like(targets[:, 0]) - 1 if group is None else group
        row = torch.where((named >= 0) & (named < rows - 1), named, rows - 1)
        if self.sums is None:
            self.sums = torch.zeros(rows, 3, dtype=torch.float64, device=logits.device)
        self.sums.index_add_(0, row, each)

    def take(self, reduce: Callable[..., Any]) -> dict[str, float]:
        """Return the metrics over all ranks (`reduce` sums a tensor over them), and reset."""
        assert self.sums is not None, "nothing was scored"
        sums = reduce(self.sums, reduce_op="sum")
        self.sums = None
        loss, correct, count = sums.sum(0).tolist()
        metrics = {"loss": loss / max(count, 1), "accuracy": correct / max(count, 1)}
        if self.bytes_per_token:
            metrics["bits_per_byte"] = metrics["loss"] / (math.log(2) * self.bytes_per_token)
        for group, name in self.names.items():
            loss, correct, count = sums[group].tolist()
            if f"loss_{name}" in self._metrics:
                metrics[f"loss_{name}"] = loss / max(count, 1)
            metrics[f"accuracy_{name}"] = correct / max(count, 1)
        return metrics
