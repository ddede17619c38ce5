"""Memory of the weight update: optimizer states, moving average and workspace."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from blocks.find import wiring_options
from blocks.ir.graph import Graph
from blocks.ir.numbers import largest, total
from blocks.ir.operation import Weight
from blocks.ir.walk import graphs, own_weights
from blocks.wiring.optimizer import OptimizerChoice
from composer.language.schema.spec import Train


class Update(NamedTuple):
    """Bytes of the update.

    Attributes:
        states: optimizer states.
        average: moving average of the weights.
        workspace: maximum workspace while one weight is updated.
    """

    states: float
    average: float
    workspace: float


def update_of(graph: Graph, train: Train | None, element: int) -> Update:
    """Return the bytes of updating a graph's weights, at `element` bytes per element."""
    option = optimizer_of(train)
    weights = [*trained_weights(graph)]
    moments = (option.moments(weight, inside) * weight.size * copies for weight, inside, copies in weights)
    average = total(weight.size * copies for weight, _, copies in weights) if train and train.ema else 0
    workspace = (option.workspace(weight, inside, element) for weight, inside, _ in weights)
    return Update(element * total(moments), element * average, largest(0, *workspace))


def optimizer_of(train: Train | None) -> OptimizerChoice:
    """Return the optimizer of a `train` section, or the default one."""
    if train is not None:
        return train.option(OptimizerChoice)
    default = wiring_options()[OptimizerChoice.key].default
    assert isinstance(default, OptimizerChoice)
    return default


def trained_weights(graph: Graph) -> Iterator[tuple[Weight, bool, int]]:
    """Yield each trained weight, whether it is in a stage, and how many copies of it there are."""
    for body, place in graphs(graph):
        for name, weight, used in own_weights(body, place):
            if weight.trained:
                yield weight, bool(place.loops) or name.startswith("stages."), used.copies
