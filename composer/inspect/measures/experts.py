"""What the experts have to do: load, overlap and entropy, step by step."""

from __future__ import annotations

from math import log
from typing import Any

from composer.inspect.base.measure import Measure, Result, Tell
from composer.inspect.base.routing import Routing, entropy, loads, overlap, routings
from composer.inspect.base.subject import Subject
from composer.inspect.base.views import Choice, Heat, Note, Rows, View


def run(subject: Subject, tell: Tell) -> Result:
    """Count the choices at each step."""
    values: dict[str, Any] = {}
    views: list[View] = []
    for routing in routings(subject):
        values[routing.name], shown = _values_and_views(routing)
        views += shown
    return Result(values, views)


def _values_and_views(routing: Routing) -> tuple[dict[str, Any], list[View]]:
    load = loads(routing.chosen, routing.experts)
    even = entropy(load) / max(log(routing.experts), 1e-30)
    mixing = entropy(routing.weights.double() / routing.weights.double().sum(-1, keepdim=True)).mean((1, 2))
    numbers = [str(expert + 1) for expert in range(routing.experts)]
    heats: dict[str, View] = {
        "load": Heat(
            f"{routing.name}: share of the choices",
            "step",
            "expert",
            routing.steps,
            numbers,
            load.tolist(),
            share=True,
        )
    }
    values = {
        "load": load.tolist(),
        "load entropy": even.tolist(),
        "effective experts": entropy(load).exp().tolist(),
        "weight entropy": mixing.tolist(),
    }
    shown: list[View] = []
    if routing.tied:
        chosen = routing.chosen
        values["overlap"] = [[overlap(one, two) for two in chosen] for one in chosen]
        heats["overlap"] = Heat(
            f"{routing.name}: experts that two steps share",
            "step",
            "step",
            routing.steps,
            routing.steps,
            values["overlap"],
            share=True,
            top=1.0,
        )
    else:
        shown = [Note("Layers have experts of their own, so no two of them share any: no overlap.")]
    rows = [
        [step, f"{a:.3f}", f"{b:.1f}", f"{c:.3f}"]
        for step, a, b, c in zip(
            routing.steps, even.tolist(), values["effective experts"], mixing.tolist(), strict=True
        )
    ]
    table = Rows(["step", "load entropy", "effective experts", "weight entropy"], rows)
    return values, [Choice("Show", heats), *shown, table]


MEASURE = Measure(
    "experts",
    40,
    "Experts",
    "What the experts have to do",
    (
        "Load is the share of all choices at a step that fall on an expert, over all tokens. Its "
        "entropy is divided by the logarithm of the number of experts: 1 if all have the same load. "
        "Effective experts are the exponential of the entropy itself. Weight entropy, in nats, is that "
        "of the weights a token gives to its own experts, as a mean over tokens.",
        "Overlap of two steps is the mean share of a token's experts at one that it has at the other "
        "too; by chance it is the number of active experts divided by that of all.",
    ),
    run,
)
