"""Logits of tokens that leave the last stage before its last step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from blocks.ir.walk import Place
from blocks.primitives.reference import project
from blocks.wiring.loss.cross_entropy.exit_reference import exit_state
from blocks.wiring.loss.cross_entropy.exits import ExitCrossEntropy
from composer.module.emission.code import Code
from composer.module.emission.lookup import gather, held_tensor

if TYPE_CHECKING:
    from composer.module.model import ComposedModel


def exit_logits(model: ComposedModel, tokens: Tensor, threshold: float, keys: list[Tensor | bool]) -> Tensor:
    """Return the logits [batch, sequence, vocab] of the step at which each token leaves.

    That is the first step at which its exit probabilities add up to the threshold. All steps are run.

    Raises:
        ValueError: the model has no exit gate, or the threshold is not above 0 and at most 1.
    """
    check_exits(model, threshold)
    loss = model.graph.node("loss")
    code = Code(model.graph, Place(), [loss.inputs[0]], "States")
    states = code(tokens, None, *keys, *gather(model, model.graph))
    head, gate, bias = (held_tensor(model, name) for name in loss.weights)
    return project(exit_state(states, gate, bias, threshold), head, head.shape[:1])


def check_exits(model: ComposedModel, threshold: float | None) -> None:
    """Check that tokens can leave a model at a threshold.

    Raises:
        ValueError: they cannot: see `exit_logits`.
    """
    if threshold is None:
        return
    if not isinstance(model.graph.node("loss").op, ExitCrossEntropy):
        raise ValueError("exit_threshold: expected a model with exit: {gate: learned}, got one without exits")
    if not 0 < threshold <= 1:
        raise ValueError(f"exit_threshold: expected a number above 0 and at most 1, got {threshold}")
