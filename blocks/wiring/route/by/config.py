"""Stages whose steps run on some of the tokens. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field

from blocks.base.builder import Builder
from blocks.base.config import Problem
from blocks.base.fields import Fraction, NonNegative, Positive
from blocks.base.invalid import independent
from blocks.base.wiring import Run, Site
from blocks.ir.operation import Value
from blocks.wiring.route import Route

_TOKENWISE = {"residual": ("add", "scale", "gate")}
"""Values besides the default that work on some of the tokens, by key."""
_ANY = ("norm", "per_step", "route")
"""Keys of which every value does."""


class RoutedBy(Route):
    """A router selects the tokens that run each step; the others keep their state (Mixture-of-Recursions,
    arXiv 2507.10524). Attention covers only the tokens that run the same step.

    `expert_choice`: each step selects among the tokens that ran the previous one. In training it takes those
    with the highest logits, which is not causal; an auxiliary loss pushes the logits of selected tokens above
    0 and those of the others below. At inference a token runs a step if its logit is above 0, which is
    causal. A token that runs step t becomes x + g f(x), with f the step and g = `scale` * sigmoid(router_t
    x).

    `token`: each token selects its number of steps n before the first step, by the maximum of
    softmax(router x). Its result is x + g f(.. f(x)), with f applied n times and g = `scale` times the
    softmax's value at n. A loss balances the numbers. FLOPs assume equal shares of tokens per number; memory
    is that of all tokens in all steps, the upper bound.
    """

    name = "by"
    weights_per_step = True
    unskippable = "which says itself which tokens run a step"
    selects_tokens = True

    by: Literal["expert_choice", "token"]
    """`expert_choice`: each step selects its tokens; `token`: each token selects its number of steps."""
    keep: Annotated[tuple[Fraction, ...] | None, Field(min_length=1, examples=[[1.0, 0.5]])] = None
    """For `expert_choice`, the share of a sequence's tokens that runs each step; the last share applies to
    all further steps. Default: shares that decrease evenly, such as 1, 2/3, 1/3."""
    kv: Literal["here", "first"] = "here"
    """`here`: attention reads keys and values of the tokens that run the step; `first`: those of all tokens
    at the first step, and later steps compute none."""
    scale: Positive = 0.1
    """The factor of the gate g."""
    loss: NonNegative = 1e-3
    """The weight of the router's loss in training; with `token` a load-balancing loss (arXiv 2101.03961)."""

    def problems(self, site: Site) -> Iterator[Problem]:
        """Check the shares, and that all other options act on each token alone."""
        yield from independent(self._shares(site), self._others(site), self._first(site))

    def _shares(self, site: Site) -> Iterator[Problem]:
        keep = self.keep or ()
        if not site.tied:
            yield Problem("", "none, unless the stage has recur", self.plain())
        elif len(keep) > site.steps:
            yield Problem("keep", f"at most one share for each of the {site.steps} steps", [*keep])
        if self.by == "token" and keep:
            yield Problem(
                "keep", "none beside by: token, since each token chooses its own number of steps", [*keep]
            )
        if any(later > earlier for earlier, later in pairwise(keep)):
            expected = "shares that never increase, since a token that has stopped runs no later step"
            yield Problem("keep", expected, [*keep])

    def _first(self, site: Site) -> Iterator[Problem]:
        if self.kv != "first":
            return
        if self.keep and self.keep[0] < 1:
            expected = (
                "1 as the first share beside kv: first, since the first step makes the keys of all tokens"
            )
            yield Problem("keep", expected, [*self.keep])
        per_step = site.wiring.get("per_step")
        if per_step is not None and per_step.name != "none":
            expected = (
                f"here beside per_step: {per_step.name}, since later steps would not use their own weights "
                "for keys and values"
            )
            yield Problem("kv", expected, self.kv)

    def _others(self, site: Site) -> Iterator[Problem]:
        if site.nested:
            yield Problem("", "none in a stage that has stages in its step", self.plain())
        loss = site.model.get("loss")
        if site.is_last and loss is not None and getattr(loss, "reads_steps", False):
            expected = (
                f"none beside loss: {loss.name}, since costs cannot yet count a loss that reads every step"
            )
            yield Problem("", expected, self.plain())
        for options in (site.wiring, *site.entries):
            for key, option in options.items():
                if key not in _ANY and not self._allows(key, option.name, type(option).default):
                    expected = f"none beside {key}: {option.name}, which cannot run on selected tokens"
                    yield Problem("", expected, self.plain())
                    return

    def _allows(self, key: str, name: str, default: str) -> bool:
        return name == default or name in _TOKENWISE.get(key, ())

    def not_causal(self) -> str:
        """Whether a token is among the highest logits depends on later tokens."""
        if self.by == "token":
            return ""
        return "each step chooses among all tokens of a sequence (elsewhere by the sign of a token's logit)"

    def batch_wide(self) -> bool:
        """The balance of numbers of steps is that of all tokens of a micro-batch."""
        return self.by == "token" and self.loss > 0

    def expected_costs(self) -> str:
        """How many tokens run a step is for them to decide."""
        if self.by == "expert_choice":
            return ""
        return (
            "tokens choose their number of steps: FLOPs are those of equal shares, memory that of all steps"
        )

    def pads(self) -> bool:
        """Rows whose tokens chose fewer steps are filled up."""
        return self.by == "token"

    def first_kv(self) -> bool:
        """Return whether attention reads keys and values of the first step."""
        return self.kv == "first"

    def shares(self, steps: int) -> tuple[float, ...]:
        """Return the share of the tokens that runs each step; of tokens that choose, if they do so evenly."""
        return self.keep or tuple((steps - step) / steps for step in range(steps))

    def summary(self, site: Site) -> str:
        """Say how many tokens run the steps."""
        first = ", keys and values of the first step" if self.kv == "first" else ""
        if self.by == "token":
            return f"each token chooses 1 to {site.steps} steps{first}"
        keep = self.shares(site.steps)
        shares = [keep[min(step, len(keep) - 1)] for step in range(site.steps)]
        return f"steps choose {', '.join(f'{share:.0%}' for share in shares)} of the tokens{first}"

    def around_loop(self, build: Builder, x: Value, run: Run) -> Value:
        """Carry which tokens ran the step before, among which the next one chooses."""
        if self.by == "token":
            return run(x)
        from blocks.wiring.route.by import expert_choice

        return expert_choice.around_loop(build, x, run)

    def around_step(self, build: Builder, x: Value, run: Run) -> Value:
        """Run the step on some of the tokens."""
        from blocks.wiring.route.by import expert_choice, token

        build.first_kv = self.kv == "first"
        around_step = token.around_step if self.by == "token" else expert_choice.around_step
        return around_step(build, x, run, self.shares(build.trips()), self.scale, self.loss)
