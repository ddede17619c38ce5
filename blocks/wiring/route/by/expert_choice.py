"""Expert choice: each step chooses its tokens. Torch-free."""

from __future__ import annotations

from blocks.base.builder import Builder
from blocks.base.wiring import Run
from blocks.ir.operation import Init, Value, Weight
from blocks.ir.tensor_type import TRAINING
from blocks.wiring.route.by.operations import AddToTokens, AllTokens, ChooseTokens, PickTokens

_RAN = "ran_before"


def around_loop(build: Builder, x: Value, run: Run) -> Value:
    """Carry the flags of the tokens that ran the previous step."""
    build.next.carried = {_RAN: build.op("all_tokens", AllTokens(), build.tokens())}
    last = run(x)
    build.next.carried = {}
    return last


def around_step(
    build: Builder, x: Value, run: Run, keep: tuple[float, ...], scale: float, loss_weight: float
) -> Value:
    """Choose tokens, run the step on them, and add the result to their states."""
    steps, width = build.trips(), build.width
    choose = ChooseTokens(keep, build.trip(), width, steps, scale)
    router = Weight("router", (steps, width), Init("normal", width**-0.5))
    training = build.model_input("training", TRAINING)
    places = build.op("choose", choose, x, build.carried[_RAN], training, weights=[router])
    gates, runs, loss = (Value(places.node, output) for output in (1, 2, 3))
    build.carried = {_RAN: runs}
    if loss_weight:
        build.auxiliary_loss("route_loss", loss, loss_weight)
    build.places = places
    y = run(build.op("pick", PickTokens(width), x, places))
    build.places = None
    return build.op("put_back", AddToTokens(width), x, places, gates, y)
