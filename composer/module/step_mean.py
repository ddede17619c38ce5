"""The loss of an optimizer step: the mean over its scored targets, however they are split.

A micro-batch's loss is a mean over its own scored targets. Averaging these means over micro-batches and ranks
would weight a target by how few others are scored beside it. Each mean is therefore weighted by its number of
targets before the backward pass, and the gradients are divided by the step's total before they are clipped:
the total is known only once the last micro-batch of every rank has been seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from blocks.wiring.loss.cross_entropy.reference import IGNORED


class StepMean:
    """Weights the losses of one optimizer step, and rescales its gradients at the end.

    Attributes:
        loss: the mean loss over the scored targets of the last step, over all ranks; None before the first.
        reported: the means of further metrics, by name.
    """

    def __init__(self) -> None:
        self.loss: Tensor | None = None
        self.reported: dict[str, Tensor] = {}
        # scored targets of this rank's micro-batches, summed loss, and sums of further metrics
        self._sums: Tensor | None = None
        self._names: tuple[str, ...] = ()

    def start(self) -> None:
        """Drop the micro-batches of an unfinished step."""
        self.loss = self._sums = None
        self.reported = {}

    def whole(self, loss: Tensor, reported: Mapping[str, Tensor] | None = None) -> Tensor:
        """Return the loss of a step of one micro-batch on one rank, unchanged."""
        self.loss = loss.detach()
        self.reported = {name: value.detach() for name, value in (reported or {}).items()}
        return loss

    def part(
        self,
        loss: Tensor,
        targets: Tensor,
        expected: float,
        reported: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Return a micro-batch's mean loss times its number of scored targets / `expected`, an equal share.

        `targets` are [batch, sequence], -100 where not scored. All parts of a step have the same `expected`.
        """
        reported = reported or {}
        self._names = (*reported,)
        scored = (targets != IGNORED).sum()
        means = torch.stack([each.detach().double() for each in (loss, *reported.values())])
        sums = torch.cat([scored.double().view(1), means * scored])
        self._sums = sums if self._sums is None else self._sums + sums
        return loss * (scored / expected)

    @torch.no_grad()
    def finish(self, weights: Iterable[nn.Parameter], expected: float, reduce: Callable[..., Any]) -> None:
        """Rescale the gradients of `weights` to those of the step's mean loss, if it has weighted parts.

        `expected` is the sum over all parts; `reduce` sums a tensor over ranks.
        """
        if self._sums is None:
            return
        scored, *totals = reduce(self._sums, reduce_op="sum")
        self._sums = None
        scored = scored.clamp(min=1)
        self.loss, *reported = ((total / scored).float() for total in totals)
        self.reported = dict(zip(self._names, reported, strict=True))
        if gradients := [_local(weight.grad) for weight in weights if weight.grad is not None]:
            torch._foreach_mul_(gradients, (expected / scored).to(gradients[0]))


def _local(gradient: Tensor) -> Tensor:
    return gradient.to_local() if isinstance(gradient, DTensor) else gradient
