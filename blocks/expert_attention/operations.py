"""The operations of expert attention. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from blocks.core.operation import At, Kernel, Operation, Saved, Shape, Target, expect

_REFERENCE = "blocks.expert_attention.reference"


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
        Kernel("route", f"{_REFERENCE}:route", "scores, top-k by biased logits, renormalised sigmoids"),
    )
    update = f"{_REFERENCE}:update_balance"

    def shapes(self, inputs: Sequence[Shape]) -> tuple[Shape, ...]:
        """Return weights and indices of the chosen experts."""
        expect(self, inputs, (self.width,))
        return ((self.active,), (self.active,))

    def weight_shapes(self) -> tuple[Shape, ...]:
        """Return keys, balancing bias and load."""
        return ((self.experts, self.width), (self.experts,), (self.experts,))

    def arguments(self) -> dict[str, Any]:
        """Return the number of experts to choose."""
        return {"active": self.active}

    def update_arguments(self) -> dict[str, Any]:
        """Return the size of one update."""
        return {"rate": self.balance_rate}

    def flops(self, at: At) -> float:
        """One score per expert."""
        return 2 * self.width * self.experts

    def saved(self, at: At) -> Saved:
        """Keep the query, the sigmoids, the indices and what the renormalisation divides."""
        return Saved(inputs=(0,), extra=4 * self.experts + (8 + 4) * self.active + 4)

    def output_bytes(self, at: At) -> int:
        """Weights are fp32."""
        return 4


@dataclass(frozen=True)
class Experts(Operation):
    """Run the chosen experts and sum them by weight: (x, weights, indices) -> y."""

    width: int
    experts: int
    active: int
    hidden: int

    @staticmethod
    def _ungrouped(operation: Experts, target: Target) -> str:
        odd = [n for n in (operation.width, operation.hidden) if n % 8]
        return f"rows of {odd[0]} are no multiple of 16 bytes in every dtype" if odd else ""

    kernels = (
        Kernel(
            "grouped_mm",
            f"{_REFERENCE}:experts_grouped",
            "tokens sorted by expert, one grouped product for all",
            _ungrouped,
            prepare=f"{_REFERENCE}:cast",
            prepared=2,
        ),
        Kernel("experts_plain", f"{_REFERENCE}:experts_plain", "reference: one expert after the other"),
    )

    def shapes(self, inputs: Sequence[Shape]) -> tuple[Shape, ...]:
        """Return the width of the model."""
        expect(self, inputs, (self.width,), (self.active,), (self.active,))
        return ((self.width,),)

    def weight_shapes(self) -> tuple[Shape, ...]:
        """Return gate and up side by side, then down."""
        return ((self.experts, self.width, 2 * self.hidden), (self.experts, self.hidden, self.width))

    def flops(self, at: At) -> float:
        """Three products of width x hidden for each chosen expert."""
        return 6 * self.active * self.width * self.hidden

    def traffic(self, at: At, given: float, made: float) -> float:
        """Gather rows, and write and read again what stands between the products, then scatter."""
        # rows, both halves, their product and the outputs: each written once and read once
        inner = self.active * (2 * self.width + 4 * self.hidden + 2 * self.hidden + 2 * self.width)
        return given + at.compute_bytes * inner + made

    def saved(self, at: At) -> Saved:
        """Keep the sorted inputs, both halves, silu, their product, the outputs, weights, two index lists."""
        # one expert after the other, the weighted outputs are kept too
        copies = 3 if self.width % 8 or self.hidden % 8 else 2
        rows = self.active * (copies * self.width + 4 * self.hidden)
        return Saved(extra=at.compute_bytes * rows + (4 + 16) * self.active)
