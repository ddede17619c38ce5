"""Early exits: logits of tokens that leave the last stage before its last step."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from blocks.ir.walk import Place
from blocks.primitives.reference import project
from blocks.wiring.loss.cross_entropy.exit_reference import ExitCollector
from blocks.wiring.loss.cross_entropy.exits import ExitCrossEntropy
from composer.module.core import ModelCore
from composer.module.emission.code import Code
from composer.module.emission.emit import resolve
from composer.module.emission.lookup import gather, held_tensor
from composer.module.emission.stage import Stage


def exit_logits(model: ModelCore, tokens: Tensor, threshold: float, keys: list[Tensor | bool]) -> Tensor:
    """Return the logits [batch, sequence, vocab] of the step at which each token leaves.

    A token leaves at the first step at which its cumulative exit probability reaches the threshold. Once all
    tokens of the batch have left, no further step runs.

    Raises:
        ValueError: the model has no exit gate, or the threshold is not above 0 and at most 1.
    """
    check_exits(model, threshold)
    loss = model.graph.node("loss")
    assert isinstance(loss.op, ExitCrossEntropy)
    head, gate, bias = (held_tensor(model, name) for name in loss.weights)
    norm = model.graph.node(loss.inputs[0].node)
    normed = partial(resolve(norm.kernel.function), **norm.op.arguments())
    gains = [held_tensor(model, name) for name in norm.weights]
    collector = ExitCollector(gate, bias, threshold, loss.op.steps)

    def done(state: Tensor) -> bool:
        (state,) = normed((state,), *gains)
        return collector.add(state)

    stage = model.stages[-1]
    assert isinstance(stage, Stage)
    stage.done = done
    try:
        code = Code(model.graph, Place(), [norm.inputs[0]], "States")
        code(tokens, None, *keys, *gather(model, model.graph))
    finally:
        stage.done = None
    return project(collector.state, head, head.shape[:1])


def check_exits(model: ModelCore, threshold: float | None) -> None:
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
