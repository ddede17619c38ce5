"""The expected loss under the exit probabilities of each token. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator

from blocks.base.builder import Builder
from blocks.base.config import Problem
from blocks.base.fields import NonNegative
from blocks.base.wiring import Site
from blocks.ir.operation import ZEROS, Value, Weight
from blocks.wiring.loss import Loss, Lowered, ModelEnd
from blocks.wiring.loss.read_steps import normed_states, unread_steps


class ExitLoss(Loss):
    """The expected cross-entropy over the exit steps of a token, minus `exit` times their entropy.

    The probabilities are those of `exit: {gate: learned}` in the last stage (Ouro, arXiv 2510.25741).
    """

    name = "exit"
    aliases = "expected ouro"
    reads_steps = True

    exit: NonNegative
    """The weight of the entropy of the exit probabilities, which prevents an early collapse to one step."""

    def problems(self, site: Site) -> Iterator[Problem]:
        """Check that the last stage has steps to read, and a gate."""
        yield from unread_steps(site, self)
        stage = site.last_stage
        if stage is not None and (option := stage.wiring.get("exit")) is not None and option.name == "none":
            hint = "or give the stage exit: {gate: learned}"
            yield Problem("", "another loss, since the last stage has exit: none", self.plain(), hint)

    def summary(self, site: Site) -> str:
        """Name the loss."""
        return f"expected cross-entropy over exits - {self.exit:g} entropy"

    def lower(self, build: Builder, end: ModelEnd) -> Lowered:
        """Compare the logits of each step with the targets, weighted by the exit probabilities."""
        from blocks.wiring.loss.cross_entropy.exits import ExitCrossEntropy

        normed = end.norm(end.state)
        logits = end.head(normed)
        states = normed_states(build, end, normed)
        operation = ExitCrossEntropy(build.width, end.vocab, end.steps, end.tokens, self.exit)
        gate = Weight("exit_gate", (1, build.width), ZEROS, decay=False)
        bias = Weight("exit_bias", (1,), ZEROS, decay=False)
        loss = build.tied("loss", operation, states, end.targets, of=logits.node, weights=[gate, bias])
        reported = {"cross_entropy": Value(loss.node, 1), "exit_entropy": Value(loss.node, 2)}
        return Lowered(logits, loss, reported)
