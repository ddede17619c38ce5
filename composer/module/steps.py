"""Recurrent stages for other numbers of steps than a model was trained with."""

from __future__ import annotations

from collections.abc import Mapping

from blocks.ir.graph import Graph
from blocks.ir.walk import weights
from composer.language.schema.levels import Sublayer
from composer.language.schema.spec import Spec, Stage


def with_steps(spec: Spec, steps: Mapping[str, int]) -> Spec:
    """Return a spec whose recurrent stages run other numbers of steps, by place, such as `stages.0`.

    Raises:
        ValueError: a place is not that of a recurrent stage, or a number is below 1.
    """
    left = dict(steps)
    stages = tuple(_resized(stage, f"stages.{n}", left) for n, stage in enumerate(spec.stages))
    if left:
        raise ValueError(f"expected the place of a stage, such as stages.0, got {next(iter(left))}")
    return spec.model_copy(update={"stages": stages})


def check_weights(trained: Graph, graph: Graph) -> None:
    """Check that a graph for another number of steps has the weights of the one that is trained.

    Raises:
        ValueError: it has not, since some weights are made for each step.
    """
    before = {name: weight.shape for name, weight, _ in weights(trained)}
    after = {name: weight.shape for name, weight, _ in weights(graph)}
    for name in before | after:
        if before.get(name) != after.get(name):
            raise ValueError(f"{name}: it holds something for each step, so the number of steps is fixed")


def _resized(entry: Sublayer | Stage, place: str, left: dict[str, int]) -> Sublayer | Stage:
    if not isinstance(entry, Stage):
        return entry
    inner = tuple(_resized(each, f"{place}.{n}", left) for n, each in enumerate(entry.step))
    changes: dict[str, object] = {"step": inner}
    if place in left:
        number = left.pop(place)
        if not entry.tied:
            raise ValueError(f"{place}: expected a recurrent stage, got a stack, whose layers are fixed")
        if number < 1:
            raise ValueError(f"{place}: expected at least 1 step, got {number}")
        changes["recur"] = number
    return entry.model_copy(update=changes)
