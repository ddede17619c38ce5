"""The mean of the losses of all steps. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from blocks.base.builder import Builder
from blocks.base.config import Problem
from blocks.base.wiring import Site
from blocks.ir.operation import Value
from blocks.wiring.loss import Loss, Lowered, ModelEnd
from blocks.wiring.loss.read_steps import normed_states, unread_steps


class StepsLoss(Loss):
    """Deep supervision: a weighted mean of the cross-entropies of all steps of the last stage.

    Each step has logits, through the same final norm and head (arXiv 1409.5185). Evaluations score the logits
    of the last step.
    """

    name = "steps"
    aliases = "each every per_step deep_supervision"
    reads_steps = True

    steps: Literal["uniform", "linear"]
    """The weights of the steps: `uniform`, or `linear`, proportional to 1, 2, 3, ..."""

    def problems(self, site: Site) -> Iterator[Problem]:
        """Check that the last stage has steps to read."""
        yield from unread_steps(site, self)

    def summary(self, site: Site) -> str:
        """Name the loss and the weights."""
        return f"cross-entropy of each step, {self.steps} weights"

    def lower(self, build: Builder, end: ModelEnd) -> Lowered:
        """Compare the logits of each step with the targets."""
        from blocks.wiring.loss.cross_entropy.steps import StepsCrossEntropy

        normed = end.norm(end.state)
        logits = end.head(normed)
        operation = StepsCrossEntropy(build.width, end.vocab, end.steps, end.tokens, self.steps)
        states = normed_states(build, end, normed)
        loss = build.tied("loss", operation, states, end.targets, of=logits.node)
        return Lowered(logits, loss, {"cross_entropy": Value(loss.node, 1)})
