"""Stages that tokens may leave by a learned gate. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from blocks.base.config import Problem
from blocks.base.wiring import Site
from blocks.wiring.exit import Exit


class GatedExit(Exit):
    """A gate reads the normed state after each step and says how probable it is that the token leaves there.

    With the gate's sigmoid g_t, a token leaves at step t with probability g_t times the product of all
    earlier 1 - g_j, and what is left falls to the last step (Ouro, arXiv 2510.25741). By default all steps
    run; with `exit_threshold` a token's logits are those of the first step at which the sum of these
    probabilities reaches the threshold, and no step runs after all tokens of the batch have left.
    """

    name = "gate"
    aliases = "learned"

    gate: Literal["learned"]
    """A linear map of the state to one number, with a bias; both start at 0."""

    def problems(self, site: Site) -> Iterator[Problem]:
        """Check that the gate has steps to choose from, and a loss that trains it."""
        if not site.is_last or not site.tied or site.steps == 1:
            yield Problem("", "none except in a last stage with recur: 2 or more", self.plain())
        elif (loss := site.model.get("loss")) is not None and loss.name != "exit":
            expected = f"none with model.loss {loss.plain()}, which trains no gate"
            yield Problem("", expected, self.plain(), "model.loss: {exit: 0.05} trains it")

    def summary(self, site: Site) -> str:
        """Say that tokens may leave."""
        return "tokens may leave by a learned gate"
