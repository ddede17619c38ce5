"""Routing and experts with the same number of rows per expert. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from blocks.expert_attention.operations import Activation, Scores, no_fused
from blocks.expert_attention.sizes import rows_per_expert
from blocks.ir.costs import CostContext, IOBytes, SavedTensors, WorkspaceBytes
from blocks.ir.decoding import LOCAL
from blocks.ir.kernel import Kernel
from blocks.ir.numbers import largest
from blocks.ir.operation import Operation, expect
from blocks.ir.tensor_type import SCALAR, TRAINING, Shape, TensorType

_ROUTING = "blocks.expert_attention.reference"
_REFERENCE = "blocks.expert_attention.batched_reference"
RATE = 0.1
"""The rate at which thresholds move towards the cutoffs of an optimizer step."""


@dataclass(frozen=True)
class BatchedExperts(Operation):
    """Choose and run experts with equal numbers of rows: (x, query, training) -> y, losses.

    With a `capacity`, tokens choose experts and choices beyond it are dropped; without one, experts choose
    tokens. Costs are those of training; outside of it there is one row per choice.
    """

    width: int
    experts: int
    active: int
    hidden: int
    activation: Activation
    capacity: float | None
    balance_rate: float
    scores: Scores
    renormalize: bool
    z_loss: bool
    balance_loss: bool

    decoding = LOCAL

    @property
    def kernels(self) -> tuple[Kernel, ...]:  # type: ignore[override]
        """The reference, and the fused kernel with the reason why it does not fit."""
        name = "with_capacity" if self.drops else "choosing_tokens"
        reference = Kernel(
            name,
            f"{_REFERENCE}:{name}",
            "equal numbers of rows, two batched products for all experts",
            prepare=f"{_ROUTING}:cast_experts",
            prepared=5,
            casts=2,
            traceable=False,
        )
        return (no_fused("routing", ["a capacity" if self.drops else "experts that choose"]), reference)

    @property
    def update(self) -> str:  # type: ignore[override]
        """Balancing biases are updated by loads, thresholds by cutoffs."""
        return f"{_ROUTING}:update_balance" if self.drops else f"{_REFERENCE}:update_threshold"

    @property
    def drops(self) -> bool:
        """Whether tokens choose, and choices beyond the capacity are dropped."""
        return self.capacity is not None

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return [width], then a scalar per loss."""
        expect(self, inputs, (self.width,), (self.width,), TRAINING)
        return (TensorType((self.width,)), *[SCALAR] * (self.z_loss + self.balance_loss))

    def weight_shapes(self) -> tuple[Shape, ...]:
        """Return joined gate and up, or only up; down; keys; then the state of routing."""
        experts, width, hidden = self.experts, self.width, self.hidden
        up = (experts, width, self._halves * hidden)
        counted = experts if self.drops else experts + 1
        return (up, (experts, hidden, width), (experts, width), (experts,), (counted,))

    def arguments(self) -> dict[str, Any]:
        names = ["active", "scores", "renormalize", "z_loss", "activation"]
        names += ["capacity", "balance_loss"] if self.drops else []
        return {name: getattr(self, name) for name in names}

    def update_arguments(self) -> dict[str, Any]:
        return {"rate": self.balance_rate if self.drops else RATE}

    def flops(self, at: CostContext) -> float:
        """One score per expert, and the products of all rows, filled or not."""
        products = 2 * (self._halves + 1) * self.width * self.hidden
        return 2 * self.width * self.experts + products * self._rows(at)

    def traffic(self, at: CostContext, read: float, written: float) -> float:
        """Gather rows, write and read the intermediates between the products, then sum."""
        hidden = 2 * (self._halves + 1) * self.hidden
        inner = self._rows(at) * (2 * self.width + hidden + 2 * self.width)
        return read + 8 * self.experts + at.compute_bytes * inner + written

    def saved(self, at: CostContext) -> SavedTensors:
        """Save the query, all scores, the rows, the intermediates between products, and numbers per row."""
        rows, narrow = self._rows(at), at.stream_bytes < 4
        numbers = 4 * self.experts + rows * (8 + 8 + 4) + self._kept_gates(rows)
        if self.z_loss:
            numbers = numbers + 4 * self.experts + 4
        if self.balance_loss:
            numbers = numbers + (4 if self.scores == "sigmoid" else 0)
        between = 4 if self.activation == "swiglu" else 1
        inner = at.compute_bytes * rows * (between * self.hidden + 2 * self.width)
        once = 4 * self.experts * self.width if at.weight_bytes < 4 else 0
        return SavedTensors(
            inputs=() if narrow else (1,),
            extra=numbers + inner + (4 * self.width if narrow else 0),
            once=once + (4 * self.experts if self.balance_loss else 0),
        )

    def _kept_gates(self, rows: float) -> float:
        """Return the bytes per token that the choice saves: indices, and sums of the renormalization."""
        if self.drops:
            return rows + 12 * self.active + (4 * self.active + 4 if self.renormalize else 0)
        return 8 * rows + 4 if self.renormalize else 0

    def workspace(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """Forward, weighted fp32 rows and their sum; backward, their gradients or those between products."""
        rows, size = self._rows(at), at.compute_bytes
        kept = self.saved(at).extra
        hidden, wide = size * rows * self.hidden, size * rows * self.width
        weighted = 4 * rows * self.width
        forward = kept + 4 * self.experts + weighted + 4 * self.width + (flow.outputs if at.widened else 0)
        between = 4 if self.activation == "swiglu" else 1
        outer = 3 * weighted + (wide if at.widened else 0) - flow.outputs
        inner = 2 * hidden - wide + size * self.width
        weights = largest((self._halves - between) * hidden, flow.grad_inputs - kept) - flow.outputs
        return WorkspaceBytes(forward, largest(outer, inner), weights)

    def _rows(self, at: CostContext) -> float:
        """Return the rows of all experts per token."""
        capacity = 1 if self.capacity is None else self.capacity
        size = rows_per_expert(at.context, self.experts, self.active, capacity)
        return self.experts * size / at.context

    @property
    def _halves(self) -> int:
        """The number of projections of the input: 2 with a gate, else 1."""
        return 2 if self.activation == "swiglu" else 1
