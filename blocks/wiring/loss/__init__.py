"""The key `loss`; each value is a file here. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from blocks.base.builder import Builder
from blocks.base.wiring import WiringConfig
from blocks.ir.operation import Value


@dataclass(frozen=True)
class ModelEnd:
    """What the end of a model is made of.

    Attributes:
        state: the state [width] after the last stage.
        collected: what the last stage collected at each step, by name: `state` if the loss reads it.
        steps: the number of steps of the last stage.
        norm: adds the last norm to a state.
        head: adds the head to a normed state and returns its logits [vocab].
        targets: the ids to predict, -100 where none is scored.
        vocab: the number of ids.
        tokens: tokens of a micro-batch.
        handed: what the first pass hands to the second, whose end this is; else nothing.
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


@dataclass(frozen=True)
class Lowered:
    """The end of a model as a loss lowered it.

    Attributes:
        logits: [vocab], what the model returns.
        loss: a scalar.
        reported: further scalars by name, such as parts of the loss, that training logs.
        handed: values [width] of the residual stream's precision that a second pass is given, as constants.
    """

    logits: Value
    loss: Value
    reported: Mapping[str, Value] = field(default_factory=dict)
    handed: Sequence[Value] = ()


class Loss(WiringConfig):
    """What training minimises."""

    key = "loss"
    owner = ("model",)
    default = "last"
    key_aliases = "objective criterion loss_fn"

    reads_steps: ClassVar[bool] = False
    """Whether it reads the state after every step of the last stage."""

    second_steps: ClassVar[str] = ""
    """The field with the number of steps of a second pass over the same batch, where there is one.

    Its only recurrent stage runs that many; its loss is added to that of the first pass.
    """

    def lower(self, build: Builder, end: ModelEnd) -> Lowered:
        """Add the end of the model: logits and loss."""
        raise NotImplementedError

    def lower_second(self, build: Builder, end: ModelEnd) -> Lowered:
        """Add the end of the second pass: logits and loss."""
        raise NotImplementedError
