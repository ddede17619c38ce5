"""The key `loss`; each value is a file here. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, NamedTuple

from blocks.base.builder import Builder
from blocks.base.wiring import WiringConfig
from blocks.ir.operation import Value


class ModelEnd(NamedTuple):
    """The inputs of a loss.

    Attributes:
        state: the state [width] after the last stage.
        collected: the values that the last stage collected at each step, by name: `state` if the loss
            reads it.
        steps: the number of steps of the last stage.
        norm: adds the final norm to a state.
        head: adds the head to a normed state and returns its logits [vocab].
        targets: the target ids, -100 where there is none.
        vocab: the number of ids.
        tokens: tokens of a micro-batch.
        handed: in a second pass, the values from the first pass; else empty.
    """

    state: Value
    collected: Mapping[str, Value]
    steps: int
    norm: Callable[[Value], Value]
    head: Callable[[Value], Value]
    targets: Value
    vocab: int
    tokens: int
    handed: Sequence[Value] = ()


class Lowered(NamedTuple):
    """The outputs of a model with its loss.

    Attributes:
        logits: [vocab], the result of the model.
        loss: a scalar.
        reported: further scalars that training logs, such as parts of the loss, by name.
        handed: detached values [width], in the precision of the residual stream, for a second pass.
    """

    logits: Value
    loss: Value
    reported: Mapping[str, Value] = {}
    handed: Sequence[Value] = ()


class Loss(WiringConfig):
    """The training loss."""

    key = "loss"
    owner = ("model",)
    default = "last"
    key_aliases = "objective criterion loss_fn"

    reads_steps: ClassVar[bool] = False
    """Whether it reads the state after every step of the last stage."""

    second_steps: ClassVar[str] = ""
    """The field with the number of steps of a second pass over the same batch; "" if there is none.

    The only recurrent stage of the model runs that many steps; the losses of both passes are added.
    """

    def lower(self, build: Builder, end: ModelEnd) -> Lowered:
        """Add the end of the model: logits and loss."""
        raise NotImplementedError

    def lower_second(self, build: Builder, end: ModelEnd) -> Lowered:
        """Add the end of the second pass: logits and loss."""
        raise NotImplementedError
