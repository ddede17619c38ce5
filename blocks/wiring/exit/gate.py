"""Stages that tokens may leave by a learned gate. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from blocks.base.config import Problem
from blocks.base.wiring import Site
from blocks.wiring.exit import Exit


class GatedExit(Exit):
    """A learned gate on the normed state after each step gives the probability that a token exits there.

    With g_t the gate's sigmoid, a token exits at step t with probability g_t times the product of all earlier
    1 - g_j, and at the last step with the remaining probability (Ouro, arXiv 2510.25741). By default all
    steps run. With `exit_threshold` at inference, a token's logits are those of the first step at which the
    cumulative probability reaches the threshold, and the loop ends once all tokens of the batch have exited.
    """

    name = "gate"
    aliases = "learned"

    gate: Literal["learned"]
    """`learned`: a linear layer with one output and a bias, both initialized to 0."""

    def problems(self, site: Site) -> Iterator[Problem]:
        """Check that the gate has steps to choose from, and a loss that trains it."""
        if not site.is_last or not site.tied or site.steps == 1:
            yield Problem("", "none, unless the stage is the last one and has recur: 2 or more", self.plain())
        elif (loss := site.model.get("loss")) is not None and loss.name != "exit":
            expected = f"none beside model.loss {loss.plain()}, which does not train the gate"
            yield Problem("", expected, self.plain(), "model.loss: {exit: 0.05} trains it")

    def summary(self, site: Site) -> str:
        """Say that tokens may leave."""
        return "tokens may leave by a learned gate"
