"""Adds the operations of residual mixes at one place of use. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from blocks.base.builder import Builder
from blocks.ir.graph import Graph, Loop
from blocks.ir.operation import ZEROS, Init, Value, Weight
from blocks.ir.walk import operations
from blocks.primitives.activations import Gelu
from blocks.wiring.residual.mix.operations import AttendValues, MixValues, SumValues, WriteValue
from blocks.wiring.residual.mix.relu_operations import RectifyValues
from blocks.wiring.residual.mix.token_operations import NormLatest, SumByToken

if TYPE_CHECKING:
    from blocks.wiring.residual.mix.config import Kind


@dataclass(frozen=True)
class Mixes:
    """Builds one or several mixes of the values so far.

    Attributes:
        heads: the number of parts of the width with separate weights.
        start: the initial learned weight of each value.
        most: the maximum number of values.
        own: the values outside of slots: the stage's input and the partial value of a group.
        token: the latest order token of the slots.
    """

    build: Builder
    kind: Kind
    heads: int
    start: Init
    most: int
    own: Sequence[Value]
    token: Value
    slots: Value

    def add(self, *names: str) -> list[Value]:
        """Add one mix [width] per name; the name is the prefix of its weights."""
        hidden = self._hidden(self.most * self.heads * len(names)) if self.kind == "token" else None
        return [self._add(name, hidden, len(names)) for name in names]

    def _add(self, name: str, hidden: Value | None, count: int) -> Value:
        width, partial, shape = self.build.width, len(self.own) > 1, (self.most, self.heads)
        dynamic: list[Value] = []
        starts = [(name, self.start)]
        match self.kind:
            case "learned_query":
                operation: MixValues = AttendValues(width, self.heads, partial)
                starts = [(name, ZEROS)]
            case "relu_query":
                operation = RectifyValues(width, self.heads, self.most, partial)
                starts.append((f"{name}_query", ZEROS))
            case "static":
                operation = SumValues(width, self.heads, self.most, partial)
            case "token":
                assert hidden is not None
                size = self.most * self.heads * count
                down = self.build.project(hidden, f"{name}_down", shape, size, init=ZEROS, bias=False)
                dynamic, operation = [down], SumByToken(width, self.heads, self.most, partial)
        shapes = operation.weight_shapes()
        weights = [
            Weight(role, each, start, decay=False) for (role, start), each in zip(starts, shapes, strict=True)
        ]
        return self.build.op(name, operation, *self.own, *dynamic, self.token, self.slots, weights=weights)

    def _hidden(self, size: int) -> Value:
        """Return gelu(W1 RMSNorm(latest value)), which all mixes project to weights per token."""
        norm = NormLatest(self.build.width, len(self.own) > 1)
        latest = self.build.op("mix_norm", norm, self.own[-1], self.token, self.slots)
        return self.build.op(
            "mix_gelu", Gelu(size), self.build.project(latest, "mix_up", (size,), bias=False)
        )


def written(build: Builder, token: Value) -> int:
    """Return the number of values written by the stage that returned an order token."""
    loop = build.graph.node(token.node).op
    return loop.trips * writes(loop.body) if isinstance(loop, Loop) else 0


def writes(graph: Graph) -> int:
    """Return the number of values that one execution of a graph writes."""
    return sum(isinstance(operation, WriteValue) for _, operation, _ in operations(graph))
