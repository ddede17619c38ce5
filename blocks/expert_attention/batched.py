"""Experts that run the same number of rows each, routing included. Torch-free."""

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
"""How far thresholds move towards the cutoffs of one optimizer step."""


@dataclass(frozen=True)
class BatchedExperts(Operation):
    """Choose and run experts of equal numbers of rows: (x, query, training) -> y, losses.

    With a `capacity` tokens choose experts, and what is beyond it is dropped; without one experts choose
    tokens. Costs are those of training: outside of it rows are as many as there are choices.
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
        """The reference; the fused kernel has to say why it is not there."""
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
        """Balancing biases move by loads, thresholds by cutoffs."""
        return f"{_ROUTING}:update_balance" if self.drops else f"{_REFERENCE}:update_threshold"

    @property
    def drops(self) -> bool:
        """Whether tokens choose, and what is over a capacity is dropped."""
        return self.capacity is not None

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the width of the model, then the losses."""
        expect(self, inputs, (self.width,), (self.width,), TRAINING)
        return (TensorType((self.width,)), *[SCALAR] * (self.z_loss + self.balance_loss))

    def weight_shapes(self) -> tuple[Shape, ...]:
        """Return gate and up side by side, or up alone, down, keys, then the states of routing."""
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
        """One score per expert, and the products of its rows, whether filled or not."""
        products = 2 * (self._halves + 1) * self.width * self.hidden
        return 2 * self.width * self.experts + products * self._rows(at)

    def traffic(self, at: CostContext, read: float, written: float) -> float:
        """Gather rows, write and read again what stands between the products, then add up."""
        hidden = 2 * (self._halves + 1) * self.hidden
        inner = self._rows(at) * (2 * self.width + hidden + 2 * self.width)
        return read + 8 * self.experts + at.compute_bytes * inner + written

    def saved(self, at: CostContext) -> SavedTensors:
        """Save the query, all scores, rows with all between the products, and numbers of each row."""
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
        """Return the bytes per token that choosing keeps: which choices, and what was renormalised."""
        if self.drops:
            return rows + 12 * self.active + (4 * self.active + 4 if self.renormalize else 0)
        return 8 * rows + 4 if self.renormalize else 0

    def workspace(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """Forward, weighted rows in fp32 and their sum; backward, their gradients or those inside."""
        rows, size = self._rows(at), at.compute_bytes
        kept = self.saved(at).extra
        hidden, wide = size * rows * self.hidden, size * rows * self.width
        weighted = 4 * rows * self.width
        forward = kept + 4 * self.experts + weighted + 4 * self.width + (flow.outputs if at.widened else 0)
        between = 4 if self.activation == "swiglu" else 1
        outer = 3 * weighted + (wide if at.widened else 0) - flow.outputs
        inner = 2 * hidden - wide + size * self.width
        weights = largest((self._halves - between) * hidden, flow.grad_inputs - kept)
        return WorkspaceBytes(forward, largest(outer, inner), weights)

    def _rows(self, at: CostContext) -> float:
        """Return the rows per token of all experts."""
        capacity = 1 if self.capacity is None else self.capacity
        size = rows_per_expert(at.context, self.experts, self.active, capacity)
        return self.experts * size / at.context

    @property
    def _halves(self) -> int:
        """How many products are made of the input."""
        return 2 if self.activation == "swiglu" else 1
