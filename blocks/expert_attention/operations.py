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
    """Choose experts: (query) -> weights [active], indices [active], and a scalar per loss.

    After each optimizer step, `update` moves the balancing bias and resets the load.
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
        """The reference, and the fused kernel of `Experts` with the reason why it does not fit."""
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
        """Whether the fused kernels support it."""
        return not self._beyond()

    def _beyond(self) -> list[str]:
        """Return the fields that the fused kernels do not support."""
        limits = {
            f"{self.scores} scores": self.scores != "sigmoid",
            "scores that are not renormalised": not self.renormalize,
            "z_loss": self.z_loss,
            "balance_loss": self.balance_loss,
        }
        return [name for name, there in limits.items() if there]

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return weights and indices of the chosen experts, then a scalar per loss."""
        expect(self, inputs, (self.width,))
        losses = (SCALAR,) * (self.z_loss + self.balance_loss)
        return (TensorType((self.active,), "fp32"), TensorType((self.active,), "int"), *losses)

    def weight_shapes(self) -> tuple[Shape, ...]:
        """Return keys, balancing bias and load."""
        return ((self.experts, self.width), (self.experts,), (self.experts,))

    def arguments(self) -> dict[str, Any]:
        if self.is_plain:
            return {"active": self.active}
        names = ("active", "scores", "renormalize", "z_loss", "balance_loss")
        return {name: getattr(self, name) for name in names}

    def update_arguments(self) -> dict[str, Any]:
        return {"rate": self.balance_rate}

    def flops(self, at: CostContext) -> float:
        """One dot product of the width per expert."""
        return 2 * self.width * self.experts

    def saved(self, at: CostContext) -> SavedTensors:
        """Save the query, all scores, the indices, fp32 keys, and the inputs of losses and renormalization.

        `z_loss` also saves the logits and one number per token.
        """
        keys = 4 * self.experts * self.width if at.weight_bytes < 4 else 0
        return SavedTensors(
            inputs=(0,),
            outputs=(1,),
            extra=4 * self.experts + self._sums() + self._losses(),
            once=keys + (4 * self.experts if self.balance_loss else 0),
        )

    def _sums(self) -> int:
        """Return the bytes per token that the renormalization saves."""
        return 4 * self.active + 4 if self.renormalize else 0

    def _losses(self) -> int:
        """Return the bytes per token that losses save."""
        shares = 4 if self.balance_loss and self.scores == "sigmoid" else 0
        return shares + (4 * self.experts + 4 if self.z_loss else 0)

    def works_in(self, at: CostContext) -> Literal["any", "compute", "fp32"]:
        """Scores are computed in fp32."""
        return "fp32"

    def workspace(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """Forward, logits and scores; backward, also the gradients of the scores or of the query.

        Losses have separate gradients of the scores, and of normalized sigmoids if there are any.
        """
        shares = self.balance_loss and self.scores == "sigmoid"
        numbers = 16 * self.active + (4 if self.is_plain else 8)
        forward = flow.casts + (12 if shares else 8) * self.experts + numbers
        query = 4 * self.width - 16 * self.active - 4
        scores = 20 if shares else 8 + 4 * self.z_loss + 4 * self.balance_loss
        backward = largest(query, scores * self.experts - self._sums())
        return WorkspaceBytes(forward, backward, query)


def no_fused(what: str, beyond: Sequence[str]) -> Kernel:
    """Return the fused kernel as unfit, with the reason."""
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
    """Run the chosen experts and sum their weighted outputs: (x, weights, indices) -> y."""

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
        """Grouped products if possible; the fused kernel, which includes routing, supports only SwiGLU."""
        plain = self.activation == "swiglu"
        return self._kernels if plain else (no_fused("experts", [self.activation]), *self._kernels)

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        expect(self, inputs, (self.width,), (self.active,), TensorType((self.active,), "int"))
        # grouped products return the dtype of the cast weights, the plain reference that of its input
        return (inputs[0] if self._one_by_one else TensorType((self.width,)),)

    def weight_shapes(self) -> tuple[Shape, ...]:
        """Return joined gate and up, or only up, then down."""
        up = (self.experts, self.width, self._halves * self.hidden)
        return (up, (self.experts, self.hidden, self.width))

    def arguments(self) -> dict[str, Any]:
        return {} if self.activation == "swiglu" else {"activation": self.activation}

    def flops(self, at: CostContext) -> float:
        """Products of width x hidden per chosen expert: gate, up and down, or up and down."""
        return 2 * (self._halves + 1) * self.active * self.width * self.hidden

    def traffic(self, at: CostContext, read: float, written: float) -> float:
        """Gather rows, write and read the intermediates between the products, then scatter."""
        # rows, gate and up, their product and the outputs are each written and read once
        hidden = 2 * (self._halves + 1) * self.hidden
        inner = self.active * (2 * self.width + hidden + 2 * self.width)
        return read + at.compute_bytes * inner + written

    def saved(self, at: CostContext) -> SavedTensors:
        """Save sorted inputs, intermediates between products, outputs, weights and two index lists.

        The intermediates are gate and up, silu and the product, or the output of relu.
        """
        rows = self._between * self.active * self.hidden + 2 * self.active * self.width
        if self._one_by_one:
            # the weighted outputs are saved too, and copies of weights
            rows += self.active * self.width
            return SavedTensors(extra=at.compute_bytes * rows + (16 + 4) * self.active)
        return SavedTensors(inputs=(1,), extra=at.compute_bytes * rows + 16 * self.active)

    def workspace(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """Weighted fp32 outputs; backward, their gradients or those of hidden rows, whichever are larger."""
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
        weights = (self._halves - self._between) * size * hidden - freed
        # the sum over experts is in fp32, and its gradient is allocated first
        early = 4 * self.width if size < 4 else 0
        return WorkspaceBytes(forward, largest(weighted, inner), weights, early=early)

    def absorb(self, position: int, producer: Operation, shared: bool) -> Operation | None:
        """Fuse the routing if nothing else reads its weights and indices."""
        if shared or not isinstance(producer, Route) or not producer.is_plain or self.activation != "swiglu":
            return None
        return RoutedExperts(self.width, self.experts, self.active, self.hidden, producer.balance_rate)

    @property
    def _halves(self) -> int:
        """The number of projections of the input: 2 with a gate, else 1."""
        return 2 if self.activation == "swiglu" else 1

    @property
    def _between(self) -> int:
        """The number of saved tensors between the products, each of the size of a hidden vector."""
        return 4 if self.activation == "swiglu" else 1

    @property
    def _one_by_one(self) -> bool:
        return bool(self.width % 8 or self.hidden % 8)


@dataclass(frozen=True)
class SharedUnit(Operation):
    """The activation of shared experts: (gate, up) -> y, or (up) -> y without a gate."""

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
        """Save both inputs and silu(gate), or the output of relu."""
        if self.activation == "relu":
            return SavedTensors(outputs=(0,))
        return SavedTensors(inputs=(0, 1), extra=at.compute_bytes * self.hidden)
