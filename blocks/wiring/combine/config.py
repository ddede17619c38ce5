"""Config and lowering of the combination of parallel branches. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from blocks.base.builder import Builder
from blocks.base.wiring import WiringConfig
from blocks.ir.operation import ZEROS, Value
from blocks.primitives.operations import Sum


class Combine(WiringConfig):
    """How the outputs of parallel blocks are combined."""

    key = "combine"
    owner = ("parallel",)
    default = "sum"
    key_aliases = "merge reduce aggregation mix mode"

    reads_input: ClassVar[bool] = False
    """Whether it reads the input of the branches."""

    def lower(self, build: Builder, x: Value, branches: Sequence[Value]) -> Value:
        """Combine the branches, which have read `x`, into one update; all are [width]."""
        raise NotImplementedError


class SumOfBranches(Combine):
    """The sum of the branches."""

    name = "sum"
    aliases = "add addition plus"

    def lower(self, build: Builder, x: Value, branches: Sequence[Value]) -> Value:
        """Add them up."""
        return build.op("sum", Sum((build.width,), len(branches)), *branches)


class MeanOfBranches(Combine):
    """The mean of the branches."""

    name = "mean"
    aliases = "avg average"

    def lower(self, build: Builder, x: Value, branches: Sequence[Value]) -> Value:
        """Take their mean."""
        from blocks.wiring.combine.operations import Mean

        return build.op("mean", Mean(build.width, len(branches)), *branches)


class GateBranches(Combine):
    """A sum weighted per token by a softmax, projected from the input of the branches; initially uniform."""

    name = "gate"
    aliases = "gated softmax learned weighted"
    reads_input = True

    def lower(self, build: Builder, x: Value, branches: Sequence[Value]) -> Value:
        """Project one logit for each branch, and weight them."""
        from blocks.wiring.combine.operations import Gate

        logits = build.project(x, "gate", (len(branches),), init=ZEROS)
        return build.op("mix", Gate(build.width, len(branches)), logits, *branches)
