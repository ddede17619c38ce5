"""The operations of product-key experts. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from blocks.ir.costs import CostContext, IOBytes, SavedTensors, WorkspaceBytes
from blocks.ir.decoding import LOCAL
from blocks.ir.kernel import Kernel
from blocks.ir.numbers import largest, smallest
from blocks.ir.operation import Operation, expect
from blocks.ir.tensor_type import Shape, TensorType

TOKENS = 64
"""The number of tokens for which expert weights are gathered at a time."""
_REFERENCE = "blocks.product_key_experts.reference"
_NEURONS = "blocks.product_key_experts.neurons"


@dataclass(frozen=True)
class ChooseByProductKeys(Operation):
    """Choose experts by product keys: (query) -> weights [heads, active], indices [heads, active].

    An expert's score is the sum of two dot products, of its first key with the first half of the query and of
    its second key with the second half. The best `active` experts are therefore among the pairs of the best
    `active` keys of each set.
    """

    heads: int
    key_dim: int
    keys: int
    active: int

    decoding = LOCAL
    kernels = (
        Kernel(
            "product_keys",
            "blocks.product_key_experts.chosen:choose",
            "scores of the two sets alone",
            traceable=False,
            by_autograd="blocks.product_key_experts.chosen:chosen",
        ),
        Kernel(
            "product_keys_plain",
            f"{_REFERENCE}:choose_plain",
            "reference: a score for every expert",
            traceable=False,
        ),
    )

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return weights and indices of the chosen experts."""
        expect(self, inputs, (self.heads, self.key_dim))
        chosen = (self.heads, self.active)
        return (TensorType(chosen, "fp32"), TensorType(chosen, "int"))

    def weight_shapes(self) -> tuple[Shape, ...]:
        return ((self.keys, self.key_dim // 2),) * 2

    def arguments(self) -> dict[str, Any]:
        return {"active": self.active}

    def flops(self, at: CostContext) -> float:
        """One dot product of key_dim / 2 per key and head."""
        return 2 * self.heads * self.keys * self.key_dim

    def saved(self, at: CostContext) -> SavedTensors:
        """Save the query and the outputs."""
        return SavedTensors(inputs=(0,), outputs=(0, 1))

    def workspace(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """Forward, all scores and the candidate pairs; backward, the gradients of one key set at a time."""
        query, scores = self.heads * self.key_dim, 4 * self.heads * self.keys
        copied = 4 * query if at.compute_bytes < 4 else 0
        best = self.heads * self.active
        forward = copied + 2 * scores + 4 * best * self.active + 56 * best
        made = largest(4 * query + scores, 8 * query + (flow.grad_inputs if copied else 0))
        backward = copied + 20 * best + made
        return WorkspaceBytes(forward, backward, backward, until_end=True)


@dataclass(frozen=True)
class _Neurons(Operation):
    """Base class of reading and writing experts, with one row [width] per expert of a token."""

    width: int
    experts: int
    heads: int
    active: int

    reads_weights = False
    decoding = LOCAL

    @property
    def chosen(self) -> TensorType:
        """The type of the indices of the chosen experts."""
        return TensorType((self.heads, self.active), "int")

    @property
    def used(self) -> int:
        """The number of experts of a token, over all heads."""
        return self.heads * self.active

    def weight_shapes(self) -> tuple[Shape, ...]:
        return ((self.experts, self.width),)

    def flops(self, at: CostContext) -> float:
        """One dot product of the width per expert of a token."""
        return 2 * self.width * self.used

    def traffic(self, at: CostContext, read: float, written: float) -> float:
        """Gather one row per expert of a token."""
        return read + at.weight_bytes * self.width * self.used + written

    def workspace(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """The gathered rows of some tokens; backward, their gradients."""
        share, narrow = smallest(TOKENS, at.tokens) / at.tokens, at.weight_bytes < 4
        rows = share * self.width * self.used * (6 if narrow else 4)
        return WorkspaceBytes(
            flow.outputs + rows, flow.grad_inputs + rows, flow.grad_inputs + rows, until_end=True
        )


@dataclass(frozen=True)
class ReadNeurons(_Neurons):
    """The dot product of a token with each of its experts: (x, indices) -> sums [heads, active]."""

    kernels = (
        Kernel(
            "read_neurons",
            f"{_NEURONS}:read",
            f"rows of {TOKENS} tokens gathered at a time",
            by_autograd=f"{_REFERENCE}:read_plain",
        ),
        Kernel("read_neurons_plain", f"{_REFERENCE}:read_plain", "reference: all rows gathered at once"),
    )

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        expect(self, inputs, (self.width,), self.chosen)
        return (TensorType((self.heads, self.active), "fp32"),)

    def saved(self, at: CostContext) -> SavedTensors:
        """Save the inputs."""
        return SavedTensors(inputs=(0, 1))

    def workspace(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """Backward, also the gradients of these tokens, which take less than a cast of the rows."""
        rows = super().workspace(at, flow)
        more = 0 if at.weight_bytes < 4 else 4 * self.width * smallest(TOKENS, at.tokens) / at.tokens
        return rows._replace(backward=rows.backward + more, weights=rows.weights + more)


@dataclass(frozen=True)
class WriteNeurons(_Neurons):
    """The weighted sum of the outputs of a token's experts: (sums, weights, indices) -> y."""

    kernels = (
        Kernel(
            "write_neurons",
            f"{_NEURONS}:write",
            f"rows of {TOKENS} tokens gathered at a time",
            by_autograd=f"{_REFERENCE}:write_plain",
        ),
        Kernel("write_neurons_plain", f"{_REFERENCE}:write_plain", "reference: all rows gathered at once"),
    )

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return [width] in the dtype of weights."""
        chosen = (self.heads, self.active)
        expect(self, inputs, chosen, chosen, self.chosen)
        return (TensorType((self.width,), "stream"),)

    def saved(self, at: CostContext) -> SavedTensors:
        """Save the inputs."""
        return SavedTensors(inputs=(0, 1, 2))

    def workspace(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """Also two numbers per expert of these tokens, and an fp32 vector for each, backward for a cast."""
        share, narrow = smallest(TOKENS, at.tokens) / at.tokens, at.weight_bytes < 4
        numbers, vectors = 8 * share * self.used, 4 * share * self.width
        more = numbers + (vectors if narrow else 0)
        rows = super().workspace(at, flow)
        return rows._replace(
            forward=rows.forward + numbers + vectors,
            backward=rows.backward + more,
            weights=rows.weights + more,
        )
