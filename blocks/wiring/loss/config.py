"""Config and lowering of the loss. Torch-free."""

from __future__ import annotations

from collections.abc import Callable

from blocks.base.builder import Builder
from blocks.base.wiring import Site, WiringConfig
from blocks.ir.operation import Value
from blocks.wiring.loss.operations import CrossEntropy


class Loss(WiringConfig):
    """What training minimises."""

    key = "loss"
    owner = "model"
    default = "last"
    key_aliases = "objective criterion loss_fn"

    def lower(
        self,
        build: Builder,
        x: Value,
        head: Callable[[Value], Value],
        targets: Value,
        vocab: int,
        tokens: int,
    ) -> tuple[Value, Value]:
        """Add the end of the model; return the logits [vocab] and the loss, a scalar.

        Args:
            x: the state [width] after the last stage.
            head: adds the last norm and the head to a state and returns its logits [vocab].
            targets: the ids to predict, -100 where none is scored.
            vocab: the number of ids.
            tokens: tokens of a micro-batch.
        """
        raise NotImplementedError


class LastStep(Loss):
    """The mean cross-entropy of the last step's logits over the scored targets."""

    name = "last"
    aliases = "cross_entropy ce nll final"

    def words(self, site: Site) -> str:
        """Name the loss."""
        return "cross-entropy"

    def lower(
        self,
        build: Builder,
        x: Value,
        head: Callable[[Value], Value],
        targets: Value,
        vocab: int,
        tokens: int,
    ) -> tuple[Value, Value]:
        """Compare the logits of the last state with the targets."""
        logits = head(x)
        return logits, build.op("loss", CrossEntropy(vocab, tokens), logits, targets)
