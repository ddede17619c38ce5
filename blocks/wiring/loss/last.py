"""The loss of the last step. Torch-free."""

from __future__ import annotations

from blocks.base.builder import Builder
from blocks.base.wiring import Site
from blocks.wiring.loss import Loss, Lowered, ModelEnd


class LastStep(Loss):
    """The mean cross-entropy of the logits of the last step."""

    name = "last"
    aliases = "cross_entropy ce nll final"

    def summary(self, site: Site) -> str:
        """Name the loss."""
        return "cross-entropy"

    def lower(self, build: Builder, end: ModelEnd) -> Lowered:
        """Compare the logits of the last state with the targets."""
        from blocks.wiring.loss.cross_entropy.operations import CrossEntropy

        logits = end.head(end.norm(end.state))
        loss = build.op("loss", CrossEntropy(end.vocab, end.tokens), logits, end.targets)
        return Lowered(logits, loss)
