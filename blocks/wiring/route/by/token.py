"""Token choice: each token chooses its number of steps. Torch-free."""

from __future__ import annotations

from blocks.base.builder import Builder
from blocks.base.wiring import Run
from blocks.ir.operation import Init, Value, Weight
from blocks.wiring.route.by.operations import PickTokens
from blocks.wiring.route.by.token_operations import ChooseSteps, RunningTokens, UpdateRunTokens


def around_step(
    build: Builder, x: Value, run: Run, shares: tuple[float, ...], scale: float, loss_weight: float
) -> Value:
    """Let tokens choose before the first step, then run each step on the tokens that chose it."""
    steps, width = build.trips(), build.width

    def choose(outer: Builder, x: Value) -> Value:
        router = Weight("router", (steps, width), Init("normal", width**-0.5))
        chosen = outer.op("choose", ChooseSteps(width, steps, scale), x, weights=[router])
        if loss_weight:
            outer.auxiliary_loss("route_loss", Value(chosen.node, 2), loss_weight)
        made.append(Value(chosen.node, 1))
        return chosen

    made: list[Value] = []
    numbers = build.outside(choose)
    gates = build.outside(lambda outer, x: made[0])
    places = build.op("pick_places", RunningTokens(shares, build.trip()), numbers)
    build.places = places
    y = run(build.op("pick", PickTokens(width), x, places))
    build.places = None
    put = UpdateRunTokens(width, build.trip())
    return build.op("put_on", put, x, build.stage_input(), places, numbers, gates, y)
