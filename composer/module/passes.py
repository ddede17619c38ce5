"""The loss of a batch: of one forward pass, or of two with the same weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from blocks.ir.graph import Graph
from blocks.ir.walk import passes
from composer.module.emission.lookup import gather, made_ready_once

if TYPE_CHECKING:
    from composer.module.model import ComposedModel

_Losses = tuple[Tensor, dict[str, Tensor]]


def losses(model: ComposedModel, tokens: Tensor, targets: Tensor) -> _Losses:
    """Return the loss and what is reported beside it, by name; those of a second pass are added.

    tokens, targets: [batch, sequence], checked.
    """
    if (second := model.graph.second) is None:
        return _run(model, tokens, targets, model._keys(tokens))[0]
    # of the pass that is counted next
    again = model.randomness.keys(second, tokens, model.training, model._switch.steps)
    with made_ready_once():
        (loss, reported), handed = _run(model, tokens, targets, model._keys(tokens))
        given = [*again, *(each.detach() for each in handed)]
        del handed
        (more, beside), _ = model._switch.second(model, lambda: _run(model, tokens, targets, given))
    found = {**beside, **reported}
    return loss + more, {name: found[name] for name in reported_names(model.graph)}


def reported_names(graph: Graph) -> tuple[str, ...]:
    """Return the names of what training reports beside its loss; of two passes the first one's go first."""
    return tuple(dict.fromkeys(name for each in passes(graph) for name in each.reported))


def _run(
    model: ComposedModel, tokens: Tensor, targets: Tensor, given: list[Tensor | bool]
) -> tuple[_Losses, list[Tensor]]:
    """Return the losses of one pass, and what it hands to the second one."""
    graph = model.graph
    made = model._loss(tokens, targets, *given, *gather(model, graph))
    loss, *others = made if len(graph.outputs) > 2 else (made,)
    count = len(graph.reported)
    return (loss, dict(zip(graph.reported, others, strict=False))), [*others[count:]]
