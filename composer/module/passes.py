"""The loss of a batch, from one forward pass or from two that share their weights."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from blocks.ir.graph import Graph
from blocks.ir.walk import passes
from composer.module.core import ModelCore
from composer.module.emission.lookup import gather, made_ready_once

Keys = tuple[list[Tensor | bool], list[Tensor | bool]]
"""Further inputs of the first and the second pass over a batch (see `Randomness.keys`)."""

_Losses = tuple[Tensor, dict[str, Tensor]]

Losses = Callable[[ModelCore, Tensor, Tensor], _Losses]
"""Computes the loss and further metrics by name from checked tokens and targets [batch, sequence]."""


def keys_of(model: ModelCore, tokens: Tensor) -> Keys:
    """Return the further inputs of the passes over tokens [batch, sequence]; counts a pass."""
    second = model.graph.second
    # of the pass that is counted next
    given = tokens, model.training, model._switch.steps
    again = [] if second is None else model.randomness.keys(second, *given)
    return model._keys(tokens), again


def losses(model: ModelCore, tokens: Tensor, targets: Tensor, keys: Keys | None = None) -> _Losses:
    """Return the loss and further metrics by name, with those of a second pass.

    tokens, targets: [batch, sequence], checked. Default of `keys`: those of the current step.
    """
    first, again = keys_of(model, tokens) if keys is None else keys
    if model.graph.second is None:
        return _run(model, tokens, targets, first)[0]
    with made_ready_once():
        (loss, reported), handed = _run(model, tokens, targets, first)
        given = [*again, *(each.detach() for each in handed)]
        del handed
        (more, beside), _ = model._switch.second(model, lambda: _run(model, tokens, targets, given))
    values = {**beside, **reported}
    return loss + more, {name: values[name] for name in reported_names(model.graph)}


def reported_names(graph: Graph) -> tuple[str, ...]:
    """Return the names of the metrics that training reports besides its loss, the first pass's first."""
    return tuple(dict.fromkeys(name for each in passes(graph) for name in each.reported))


def _run(
    model: ModelCore, tokens: Tensor, targets: Tensor, given: list[Tensor | bool]
) -> tuple[_Losses, list[Tensor]]:
    """Return the losses of one pass, and the values that the second pass reads."""
    graph = model.graph
    made = model._loss(tokens, targets, *given, *gather(model, graph))
    loss, *others = made if len(graph.outputs) > 2 else (made,)
    count = len(graph.reported)
    return (loss, dict(zip(graph.reported, others, strict=False))), [*others[count:]]
