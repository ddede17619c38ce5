"""The operations of expert attention. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from blocks.expert_attention.fused_operations import RoutedExperts
from blocks.ir.costs import CostContext, IOBytes, SavedTensors, WorkspaceBytes
from blocks.ir.decoding import LOCAL
from blocks.ir.kernel import Kernel, Target
from blocks.ir.numbers import largest
from blocks.ir.operation import Operation, expect
from blocks.ir.tensor_type import SCALAR, Shape, TensorType

_REFERENCE = "blocks.expert_attention.reference"
_COMPILED = "blocks.expert_attention.compiled"


Scores = Literal["sigmoid", "softmax"]
Activation = Literal["swiglu", "relu"]


@dataclass(frozen=True)
class Route(Operation):
    """Choose experts: (query) -> weights [active], indices [active], and a scalar for each loss.

    After each optimizer step `update` moves the balancing bias and clears the counted load.
    """

    width: int
    experts: int
    active: int
    balance_rate: float
    scores: Scores = "sigmoid"
    renormalize: bool = True
    z_loss: bool = False
    balance_loss: bool = False

    update = f"{_REFERENCE}:update_balance"
    decoding = LOCAL

    @property
    def kernels(self) -> tuple[Kernel, ...]:  # type: ignore[override]
        """The reference; the fused kernel, which `Experts` asks for, has to say why it is not there."""
        reference = Kernel(
            "route",
            f"{_REFERENCE}:route",
            "scores, top-k by biased logits, renormalised sigmoids"
            if self.is_plain
            else f"{self.scores} scores, top-k by biased logits",
            traceable=False,
            compiled=f"{_COMPILED}:route",
        )
        return (reference,) if self.is_plain else (no_fused("routing", self._beyond()), reference)

    @property
    def is_plain(self) -> bool:
        """Whether it is what the fused kernels compute."""
        return not self._beyond()

    def _beyond(self) -> list[str]:
        """Return what it does that the fused kernels do not."""
        found = {
            f"{self.scores} scores": self.scores != "sigmoid",
            "scores that are not renormalised": not self.renormalize,
            "z_loss": self.z_loss,
            "balance_loss": self.balance_loss,
        }
        return [name for name, there in found.items() if there]

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return weights and indices of the chosen experts, then the losses."""
        expect(self, inputs, (self.width,))
        losses = (SCALAR,) * (self.z_loss + self.balance_loss)
        return (TensorType((self.active,), "fp32"), TensorType((self.active,), "int"), *losses)

    def weight_shapes(self) -> tuple[Shape, ...]:
        """Return keys, balancing bias and load."""
        return ((self.experts, self.width), (self.experts,), (self.experts,))

    def arguments(self) -> dict[str, Any]:
        """Return the number of experts to choose, and how they are scored where that is not the default."""
        if self.is_plain:
            return {"active": self.active}
        names = ("active", "scores", "renormalize", "z_loss", "balance_loss")
        return {name: getattr(self, name) for name in names}

    def update_arguments(self) -> dict[str, Any]:
        return {"rate": self.balance_rate}

    def flops(self, at: CostContext) -> float:
        """One score per expert."""
        return 2 * self.width * self.experts

    def saved(self, at: CostContext) -> SavedTensors:
        """Save the query, all scores, the indices, keys in fp32, and what losses and sums divide or read.

        The logits are kept for `z_loss`, which keeps a number for each token as well.
        """
        keys = 4 * self.experts * self.width if at.weight_bytes < 4 else 0
        return SavedTensors(
            inputs=(0,),
            outputs=(1,),
            extra=4 * self.experts + self._sums() + self._losses(),
            once=keys + (4 * self.experts if self.balance_loss else 0),
        )

    def _sums(self) -> int:
        """Return the bytes per token of what the renormalisation divides."""
        return 4 * self.active + 4 if self.renormalize else 0

    def _losses(self) -> int:
        """Return the bytes per token that losses keep."""
        shares = 4 if self.balance_loss and self.scores == "sigmoid" else 0
        return shares + (4 * self.experts + 4 if self.z_loss else 0)

    def works_in(self, at: CostContext) -> Literal["any", "compute", "fp32"]:
        """Scores are in fp32."""
        return "fp32"

    def workspace(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """Forward, logits stand beside the scores; backward, gradients of the scores or of the query do.

        Losses have gradients of the scores of their own; where shares are made of sigmoids, these too.
        """
        shares = self.balance_loss and self.scores == "sigmoid"
        numbers = 16 * self.active + (4 if self.is_plain else 8)
        forward = flow.casts + (12 if shares else 8) * self.experts + numbers
        query = 4 * self.width - 16 * self.active - 4
        scores = 20 if shares else 8 + 4 * self.z_loss + 4 * self.balance_loss
        backward = largest(query, scores * self.experts - self._sums())
        return WorkspaceBytes(forward, backward, query)


def no_fused(what: str, beyond: Sequence[str]) -> Kernel:
    """Return the fused kernel as one that does not fit, and says why."""
    why = f"{what} with {', '.join(beyond)}"
    return Kernel(
        "triton_experts",
        "blocks.expert_attention.fused:routed_experts",
        "",
        lambda operation, target: why,
        check="blocks.expert_attention.check:check",
    )


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
    activation: Activation = "swiglu"

    _kernels: ClassVar[tuple[Kernel, ...]] = (
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

    decoding = LOCAL

    @property
    def kernels(self) -> tuple[Kernel, ...]:  # type: ignore[override]
        """One grouped product where it can be; the fused kernel, routing included, knows one activation."""
        plain = self.activation == "swiglu"
        return self._kernels if plain else (no_fused("experts", [self.activation]), *self._kernels)

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        expect(self, inputs, (self.width,), (self.active,), TensorType((self.active,), "int"))
        # one grouped product returns what its weights were cast to, one expert after the other its input
        return (inputs[0] if self._one_by_one else TensorType((self.width,)),)

    def weight_shapes(self) -> tuple[Shape, ...]:
        """Return gate and up side by side, or up alone, then down."""
        up = (self.experts, self.width, self._halves * self.hidden)
        return (up, (self.experts, self.hidden, self.width))

    def arguments(self) -> dict[str, Any]:
        """Return the activation where it is not the default."""
        return {} if self.activation == "swiglu" else {"activation": self.activation}

    def flops(self, at: CostContext) -> float:
        """Products of width x hidden for each chosen expert: gate, up and down, or up and down."""
        return 2 * (self._halves + 1) * self.active * self.width * self.hidden

    def traffic(self, at: CostContext, read: float, written: float) -> float:
        """Gather rows, and write and read again what stands between the products, then scatter."""
        # rows, both halves, their product and the outputs: each written once and read once
        hidden = 2 * (self._halves + 1) * self.hidden
        inner = self.active * (2 * self.width + hidden + 2 * self.width)
        return read + at.compute_bytes * inner + written

    def saved(self, at: CostContext) -> SavedTensors:
        """Save the sorted inputs, what is between the products, the outputs, weights, two index lists.

        Between the products are both halves, silu and their product, or what relu returns.
        """
        between = 4 if self.activation == "swiglu" else 1
        rows = between * self.active * self.hidden + 2 * self.active * self.width
        if self._one_by_one:
            # the weighted outputs are kept too, and weights as copies
            rows += self.active * self.width
            return SavedTensors(extra=at.compute_bytes * rows + (16 + 4) * self.active)
        return SavedTensors(inputs=(1,), extra=at.compute_bytes * rows + 16 * self.active)

    def workspace(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """Weighted outputs stand in fp32, backward their gradients, unless those of hidden rows are more."""
        kept, size, active = self.saved(at).extra, at.compute_bytes, self.active
        rows, hidden = active * self.width, active * self.hidden
        if self._one_by_one:
            forward = kept + 2 * flow.outputs + 4 * rows / self.experts
            backward = 3 * flow.outputs
            return WorkspaceBytes(forward, backward, backward)
        forward = kept + size * rows + 8 * active + 4 * rows + 4 * self.width
        cast = 0 if at.recomputed else size * rows  # made when outputs that run again have gone
        narrow = 4 * self.width - size * self.width + cast if at.widened else 0
        weighted = narrow + 8 * rows
        freed = size * self.width + 4 * active
        inner = 2 * size * hidden - size * rows - freed
        weights = -self._halves * size * hidden - freed
        # the sum over experts is in fp32, and its gradient is there first
        early = 4 * self.width if size < 4 else 0
        return WorkspaceBytes(forward, largest(weighted, inner), weights, early=early)

    def absorb(self, position: int, producer: Operation, shared: bool) -> Operation | None:
        """Fuse the routing, whose weights and indices nobody else reads."""
        if shared or not isinstance(producer, Route) or not producer.is_plain or self.activation != "swiglu":
            return None
        return RoutedExperts(self.width, self.experts, self.active, self.hidden, producer.balance_rate)

    @property
    def _halves(self) -> int:
        """How many products are made of the input."""
        return 2 if self.activation == "swiglu" else 1

    @property
    def _one_by_one(self) -> bool:
        return bool(self.width % 8 or self.hidden % 8)


@dataclass(frozen=True)
class SharedUnit(Operation):
    """What shared experts have between their products: (gate, up) -> y, without a gate (up) -> y."""

    hidden: int
    activation: Activation

    decoding = LOCAL
    kernels = (Kernel("shared_unit", f"{_REFERENCE}:shared_unit", "elementwise"),)

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        halves = 2 if self.activation == "swiglu" else 1
        expect(self, inputs, *([(self.hidden,)] * halves))
        return (TensorType((self.hidden,)),)

    def arguments(self) -> dict[str, Any]:
        return {"activation": self.activation}

    def saved(self, at: CostContext) -> SavedTensors:
        """Save both inputs and silu(gate), or the output."""
        if self.activation == "relu":
            return SavedTensors(outputs=(0,))
        return SavedTensors(inputs=(0, 1), extra=at.compute_bytes * self.hidden)
