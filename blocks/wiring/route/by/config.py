"""Stages whose steps run on some of the tokens. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from blocks.base.builder import Builder
from blocks.base.config import Problem
from blocks.base.fields import Fraction, NonNegative, Positive
from blocks.base.invalid import independent
from blocks.base.wiring import Run, Site
from blocks.ir.operation import Init, Value, Weight
from blocks.ir.tensor_type import TRAINING
from blocks.wiring.route import Route
from blocks.wiring.route.by.operations import AllTokens, ChooseTokens, PickTokens, PutBack

_TOKENWISE = {"residual": ("add", "scale", "gate")}
"""Values besides the default that work on some of the tokens, by key."""
_ANY = ("norm", "per_step", "route")
"""Keys of which every value does."""
_RAN = "ran_before"


class RoutedBy(Route):
    """A router chooses the tokens that run each step, among those that ran the one before it.

    The others keep their state. A token that runs step t adds g f(x) to its state x, where f is the step and
    g = `scale` * sigmoid(router_t x). Its attention sees the tokens that run the step too. In training the
    highest logits are chosen, so it is not causal in training. A loss teaches the router to have positive
    logits for the tokens it chose and negative ones for the others it could have chosen; outside of training
    a token runs a step if its logit is positive, which is causal (Mixture-of-Recursions, arXiv 2507.10524).
    """

    name = "by"
    weights_per_step = True
    skippable = False
    some_tokens = True

    by: Literal["expert_choice"]
    """Who chooses: each step, as if it were an expert, chooses tokens."""
    keep: Annotated[tuple[Fraction, ...], Field(min_length=1, examples=[[1.0, 0.5]])]
    """The share of all tokens of a sequence that runs each step; the last one holds for further steps."""
    scale: Positive = 0.1
    """What the sigmoid of a logit is multiplied by."""
    loss: NonNegative = 1e-3
    """Weight of the router's loss in the training loss."""

    def problems(self, site: Site) -> Iterator[Problem]:
        """Check the shares, and that all other options act on each token alone."""
        yield from independent(self._shares(site), self._others(site))

    def _shares(self, site: Site) -> Iterator[Problem]:
        if not site.tied:
            yield Problem("", "none except in a stage with recur", self.plain())
        elif len(self.keep) > site.steps:
            yield Problem("keep", f"at most one share for each of the {site.steps} steps", [*self.keep])
        if any(later > earlier for earlier, later in zip(self.keep, self.keep[1:], strict=False)):
            expected = "shares that do not grow, since tokens that left do not come back"
            yield Problem("keep", expected, [*self.keep])

    def _others(self, site: Site) -> Iterator[Problem]:
        if site.nested:
            yield Problem("", "none in a stage that has stages in its step", self.plain())
        loss = site.model.get("loss")
        if site.is_last and getattr(loss, "reads_steps", False):
            expected = "none with a loss that reads the state after each step, which costs do not count yet"
            yield Problem("", expected, self.plain())
        for options in (site.wiring, *site.entries):
            for key, option in options.items():
                if key not in _ANY and not self._allows(key, option.name, type(option).default):
                    expected = f"none beside {key}: {option.name}, which is not made for some of the tokens"
                    yield Problem("", expected, self.plain())
                    return

    def _allows(self, key: str, name: str, default: str) -> bool:
        return name == default or name in _TOKENWISE.get(key, ())

    def not_causal(self) -> str:
        """Whether a token is among the highest logits depends on later tokens."""
        return "each step chooses among all tokens of a sequence (elsewhere by the sign of a token's logit)"

    def words(self, site: Site) -> str:
        """Say how many tokens run the steps."""
        shares = [self.keep[min(step, len(self.keep) - 1)] for step in range(site.steps)]
        return f"steps choose {', '.join(f'{share:.0%}' for share in shares)} of the tokens"

    def around_loop(self, build: Builder, x: Value, run: Run) -> Value:
        """Carry which tokens ran the step before."""
        build.next.carried = {_RAN: build.op("all_tokens", AllTokens(), build.tokens())}
        last = run(x)
        build.next.carried = {}
        return last

    def around_step(self, build: Builder, x: Value, run: Run) -> Value:
        """Choose tokens, run the step on them, and add what it returns to theirs."""
        steps, width = build.trips(), build.width
        choose = ChooseTokens(self.keep, build.trip(), width, steps, self.scale)
        router = Weight("router", (steps, width), Init("normal", width**-0.5))
        training = build.model_input("training", TRAINING)
        places = build.op("choose", choose, x, build.carried[_RAN], training, weights=[router])
        gates, runs, loss = (Value(places.node, output) for output in (1, 2, 3))
        build.carried = {_RAN: runs}
        if self.loss:
            build.auxiliary_loss("route_loss", loss, self.loss)
        build.places = places
        y = run(build.op("pick", PickTokens(width), x, places))
        build.places = None
        return build.op("put_back", PutBack(width), x, places, gates, y)
