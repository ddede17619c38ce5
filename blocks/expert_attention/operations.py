"""The operations of expert attention. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from blocks.expert_attention.fused_operations import RoutedExperts
from blocks.ir.costs import CostContext, IOBytes, SavedTensors, WorkspaceBytes
from blocks.ir.kernel import Kernel, Target
from blocks.ir.numbers import largest
from blocks.ir.operation import Operation, expect
from blocks.ir.tensor_type import Shape, TensorType

_REFERENCE = "blocks.expert_attention.reference"
_COMPILED = "blocks.expert_attention.compiled"


@dataclass(frozen=True)
class Route(Operation):
    """Choose experts: (query) -> weights [active], indices [active].

    After each optimizer step `update` moves the balancing bias and clears the counted load.
    """

    width: int
    experts: int
    active: int
    balance_rate: float

    kernels = (
        Kernel(
            "route",
            f"{_REFERENCE}:route",
            "scores, top-k by biased logits, renormalised sigmoids",
            traceable=False,
            compiled=f"{_COMPILED}:route",
        ),
    )
    update = f"{_REFERENCE}:update_balance"

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return weights and indices of the chosen experts."""
        expect(self, inputs, (self.width,))
        return (TensorType((self.active,), "fp32"), TensorType((self.active,), "int"))

    def weight_shapes(self) -> tuple[Shape, ...]:
        """Return keys, balancing bias and load."""
        return ((self.experts, self.width), (self.experts,), (self.experts,))

    def arguments(self) -> dict[str, Any]:
        """Return the number of experts to choose."""
        return {"active": self.active}

    def update_arguments(self) -> dict[str, Any]:
        """Return the size of one update."""
        return {"rate": self.balance_rate}

    def flops(self, at: CostContext) -> float:
        """One score per expert."""
        return 2 * self.width * self.experts

    def saved(self, at: CostContext) -> SavedTensors:
        """Keep the query, the sigmoids, the indices, what the renormalisation divides, and keys in fp32."""
        keys = 4 * self.experts * self.width if at.weight_bytes < 4 else 0
        return SavedTensors(
            inputs=(0,), outputs=(1,), extra=4 * self.experts + 4 * self.active + 4, once=keys
        )

    def works_in(self, at: CostContext) -> Literal["any", "compute", "fp32"]:
        """Scores are in fp32."""
        return "fp32"

    def scratch(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """Forward, logits stand beside the sigmoids; backward, gradients of the scores or of the query do."""
        forward = flow.copied + 8 * self.experts + 16 * self.active + 4
        query = 4 * self.width - 16 * self.active - 4
        backward = largest(query, 8 * self.experts - 4 * self.active - 4)
        return WorkspaceBytes(forward, backward, query)


def _ungrouped(operation: Experts, target: Target) -> str:
    why = "width or hidden is no multiple of 8, so of 16 bytes in every dtype"
    return why if operation._one_by_one else ""


@dataclass(frozen=True)
class Experts(Operation):
    """Run the chosen experts and sum them by weight: (x, weights, indices) -> y."""

    width: int
    experts: int
    active: int
    hidden: int

    kernels = (
        Kernel(
            "grouped_mm",
            f"{_REFERENCE}:experts_grouped",
            "tokens sorted by expert, one grouped product for all",
            _ungrouped,
            prepare=f"{_REFERENCE}:cast",
            prepared=2,
            casts=2,
            traceable=False,
            compiled=f"{_COMPILED}:experts_grouped",
        ),
        Kernel(
            "experts_plain",
            f"{_REFERENCE}:experts_plain",
            "reference: one expert after the other",
            traceable=False,
        ),
    )

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the width of the model."""
        expect(self, inputs, (self.width,), (self.active,), TensorType((self.active,), "int"))
        # one grouped product returns what its weights were cast to, one expert after the other its input
        return (inputs[0] if self._one_by_one else TensorType((self.width,)),)

    def weight_shapes(self) -> tuple[Shape, ...]:
        """Return gate and up side by side, then down."""
        return ((self.experts, self.width, 2 * self.hidden), (self.experts, self.hidden, self.width))

    def flops(self, at: CostContext) -> float:
        """Three products of width x hidden for each chosen expert."""
        return 6 * self.active * self.width * self.hidden

    def traffic(self, at: CostContext, given: float, made: float) -> float:
        """Gather rows, and write and read again what stands between the products, then scatter."""
        # rows, both halves, their product and the outputs: each written once and read once
        inner = self.active * (2 * self.width + 4 * self.hidden + 2 * self.hidden + 2 * self.width)
        return given + at.compute_bytes * inner + made

    def saved(self, at: CostContext) -> SavedTensors:
        """Keep the sorted inputs, both halves, silu, their product, the outputs, weights, two index lists."""
        rows = 4 * self.active * self.hidden + 2 * self.active * self.width
        if self._one_by_one:
            # the weighted outputs are kept too, and weights as copies
            rows += self.active * self.width
            return SavedTensors(extra=at.compute_bytes * rows + (16 + 4) * self.active)
        return SavedTensors(inputs=(1,), extra=at.compute_bytes * rows + 16 * self.active)

    def scratch(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """Weighted outputs stand in fp32, backward their gradients, unless those of hidden rows are more."""
        kept, size, active = self.saved(at).extra, at.compute_bytes, self.active
        rows, hidden = active * self.width, active * self.hidden
        if self._one_by_one:
            forward = kept + 2 * flow.made + 4 * rows / self.experts
            backward = 3 * flow.made
            return WorkspaceBytes(forward, backward, backward)
        forward = kept + size * rows + 8 * active + 4 * rows + 4 * self.width
        narrow = 4 * self.width - size * self.width + size * rows if at.widened else 0
        weighted = narrow + 8 * rows
        freed = size * self.width + 4 * active
        inner = 2 * size * hidden - size * rows - freed
        return WorkspaceBytes(forward, largest(weighted, inner), -2 * size * hidden - freed)

    def absorb(self, position: int, producer: Operation, shared: bool) -> Operation | None:
        """Take over the routing, whose weights and indices nobody else reads."""
        if shared or not isinstance(producer, Route):
            return None
        return RoutedExperts(self.width, self.experts, self.active, self.hidden, producer.balance_rate)

    @property
    def _one_by_one(self) -> bool:
        return bool(self.width % 8 or self.hidden % 8)
