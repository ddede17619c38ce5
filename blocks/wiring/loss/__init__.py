"""The key `loss`; each value is a file here. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
    """

    state: Value
    collected: Mapping[str, Value]
    steps: int
    norm: Callable[[Value], Value]
    head: Callable[[Value], Value]
    targets: Value
    vocab: int
    tokens: int


@dataclass(frozen=True)
class Lowered:
    """The end of a model as a loss lowered it.

    Attributes:
        logits: [vocab], what the model returns.
        loss: a scalar.
        reported: further scalars by name, such as parts of the loss, that training logs.
    """

    logits: Value
    loss: Value
    reported: Mapping[str, Value] = field(default_factory=dict)


class Loss(WiringConfig):
    """What training minimises."""

    key = "loss"
    owner = ("model",)
    default = "last"
    key_aliases = "objective criterion loss_fn"

    reads_steps: ClassVar[bool] = False
    """Whether it reads the state after every step of the last stage."""

    def lower(self, build: Builder, end: ModelEnd) -> Lowered:
        """Add the end of the model: logits and loss."""
        raise NotImplementedError
