"""Routing and experts fused into one operation. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from blocks.expert_attention.tiles import BITS, LARGEST, MOST_ACTIVE
from blocks.ir.costs import CostContext, IOBytes, SavedTensors, WorkspaceBytes
from blocks.ir.decoding import LOCAL
from blocks.ir.kernel import Kernel, Target, with_fields
from blocks.ir.numbers import largest
from blocks.ir.operation import ORIGIN, LoopIndex, Operation, expect
from blocks.ir.tensor_type import Shape, TensorType
from blocks.kernels.gpu import off_triton
from blocks.primitives.operations import RotateStep, step_angles
from blocks.primitives.tiles import LARGEST as LONGEST_ROW

_REFERENCE = "blocks.expert_attention.reference"
_FUSED = "blocks.expert_attention.fused"
_CHECK = "blocks.expert_attention.check"
_SUMS = "gradients of experts made of the rows of several steps, which they gather, and added up in fp32"


def _unfit(operation: RoutedExperts, target: Target) -> str:
    """Return why the Triton kernels cannot run an operation, or "" if they can."""
    if off := off_triton(operation, target):
        return off
    if operation.width % 8 or operation.hidden % 8:
        return "width or hidden is no multiple of 8, so of 16 bytes in every dtype"
    if operation.experts > LARGEST or operation.active > MOST_ACTIVE:
        return f"more than {LARGEST} experts, or {MOST_ACTIVE} active"
    return ""


def _unfit_gathered(operation: RoutedExperts, target: Target) -> str:
    """Return why the gathering kernel cannot run the first product, or "" if it can."""
    wide = "its own grouped product has no tensor cores in float32" if target.dtype == "float32" else ""
    return _unfit(operation, target) or wide


def _kernel(
    name: str, function: str, why: str, unfit: Callable[[Any, Target], str], summed: bool = False
) -> Kernel:
    """Return a kernel of experts; `summed`: gradients of weights are computed for several steps at once."""
    made = Kernel(
        name,
        f"{_FUSED}:{function}",
        why,
        unfit,
        prepare=f"{_REFERENCE}:cast_experts",
        prepared=5,
        casts=2,
        specialize=with_fields(sums=False, gathered=False),
        check=f"{_CHECK}:check",
    )
    if not summed:
        return made
    prepare, check = f"{_FUSED}:sum_experts", f"{_CHECK}:check_sums"
    return replace(
        made, prepare=prepare, sums=2, specialize=with_fields(sums=True, gathered=False), check=check
    )


def _gathered(name: str, function: str, unfit: Callable[[Any, Target], str]) -> Kernel:
    """Return a kernel with the gathering first product and weight gradients of several steps at once."""
    why = "the first grouped product gathers its rows and gates them in one launch; the second is torch's"
    made = _kernel(name, function, f"{why}; {_SUMS}", unfit, summed=True)
    specialize, check = with_fields(sums=True, gathered=True), f"{_CHECK}:check_gathered"
    # in fp32 it fits nothing, and its self-test would take long to compile and spill
    return replace(made, specialize=specialize, check=check, dtypes=("float16", "bfloat16"))


@dataclass(frozen=True)
class RoutedExperts(Operation):
    """Choose experts by the query, run them on x, sum their weighted outputs: (x, query) -> y.

    The fusion of `Experts` and `Route`, used only if a kernel fits; costs are those of the kernels.
    """

    width: int
    experts: int
    active: int
    hidden: int
    balance_rate: float

    sums: bool = field(default=False, kw_only=True)
    """Whether rows are kept over several steps to compute gradients of weights at once."""
    gathered: bool = field(default=False, kw_only=True)
    """Whether the first product gathers its rows from tokens and applies the gate."""

    decoding = LOCAL
    worth_fusing = 3  # all but the reference
    kernels = (
        _gathered("triton_experts_gathered", "routed_experts", _unfit_gathered),
        _kernel(
            "triton_experts_summed",
            "routed_experts",
            f"tokens sorted by expert in three launches; {_SUMS}",
            _unfit,
            summed=True,
        ),
        _kernel(
            "triton_experts",
            "routed_experts",
            "tokens sorted by expert in three launches; gate and weight between two grouped products",
            _unfit,
        ),
        Kernel(
            "routed_experts",
            f"{_REFERENCE}:routed_experts",
            "reference: route, then experts in grouped products",
            prepare=f"{_REFERENCE}:cast_experts",
            prepared=5,
            casts=2,
            specialize=with_fields(sums=False, gathered=False),
            traceable=False,
        ),
    )
    update = f"{_REFERENCE}:update_balance"

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        expect(self, inputs, (self.width,), (self.width,))
        return (TensorType((self.width,)),)

    def weight_shapes(self) -> tuple[Shape, ...]:
        """Return joined gate and up, down, keys, balancing bias and load."""
        experts, width, hidden = self.experts, self.width, self.hidden
        return (
            (experts, width, 2 * hidden),
            (experts, hidden, width),
            (experts, width),
            (experts,),
            (experts,),
        )

    def arguments(self) -> dict[str, Any]:
        return {"active": self.active, **({"gathered": True} if self.gathered else {})}

    def update_arguments(self) -> dict[str, Any]:
        return {"rate": self.balance_rate}

    def flops(self, at: CostContext) -> float:
        """One score per expert, and three products of width x hidden per chosen expert."""
        return 2 * self.width * self.experts + 6 * self.active * self.width * self.hidden

    def traffic(self, at: CostContext, read: float, written: float) -> float:
        """Write and read logits, sorted rows, gate and up, their product and the outputs.

        With the gathering kernel, rows are only read, and gate and up only written.
        """
        first = self.width + 2 * self.hidden if self.gathered else 2 * self.width + 4 * self.hidden
        inner = self.active * (first + 2 * self.hidden + 2 * self.width)
        return read + 8 * self.experts + at.compute_bytes * inner + written

    def saved(self, at: CostContext) -> SavedTensors:
        """Save both inputs, gate and up, and per choice its weight, expert, row and the inverse of rows.

        The query and the keys are saved in fp32, and the divisor of the weights as one more number.
        """
        keys = 4 * self.experts * self.width if at.weight_bytes < 4 else 0
        return SavedTensors(
            inputs=(0,) if _narrow(at) else (0, 1),
            extra=at.compute_bytes * 2 * self.active * self.hidden + self._routed(at),
            once=keys,
        )

    def workspace(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """Forward, the peak is at sorting the logits or around the second product.

        Backward, it is at the gradients around the second or the first product, or of the logits.
        """
        size, active = at.compute_bytes, self.active
        rows, hidden = size * active * self.width, size * active * self.hidden
        # a byte and an integer per tile and expert
        sorting = 4 * self.experts + 5 * self.experts / BITS
        second = largest(3 * hidden + rows, 2 * hidden + rows + flow.outputs)
        forward = self._routed(at) + largest(sorting, second)
        weights, to_x = 4 * active, flow.grad_inputs / 2
        first = 2 * hidden + rows + weights + to_x
        query = 4 * self.width if _narrow(at) else 0
        last = flow.grad_inputs + query + 4 * self.experts - 2 * hidden
        if self.sums:
            # the factors of the gradients of weights are kept
            first, last = 3 * hidden + rows + weights + to_x, last + 3 * hidden
        backward = largest(3 * hidden + rows + weights, first, last)
        return WorkspaceBytes(forward, backward, largest(first, last))

    def absorb(self, position: int, producer: Operation, shared: bool) -> Operation | None:
        """Fuse the rotary embedding of the query; keys are rotated back instead."""
        if type(self) is not RoutedExperts or position != 1 or shared or type(producer) is not RotateStep:
            return None
        sizes = self.width, self.experts, self.active, self.hidden, self.balance_rate
        return RotaryExperts(*sizes, index=producer.index)

    def _routed(self, at: CostContext) -> float:
        """Return the bytes per token that routing saves: per choice, and the query if it is copied."""
        return 16 * self.active + 4 + (4 * self.width if _narrow(at) else 0)


def _unfit_rotated(operation: RotaryExperts, target: Target) -> str:
    longer = operation.width > LONGEST_ROW
    return _unfit(operation, target) or (f"keys are longer than {LONGEST_ROW}" if longer else "")


def _unfit_rotated_gathered(operation: RotaryExperts, target: Target) -> str:
    return _unfit_rotated(operation, target) or _unfit_gathered(operation, target)


@dataclass(frozen=True)
class RotaryExperts(RoutedExperts):
    """`RoutedExperts` with queries rotated over depth: (x, query, angles) -> y.

    The keys are rotated back instead, which are fewer rows: the product of a rotated query with a key equals
    that of the query with the key rotated back.
    """

    index: LoopIndex = ORIGIN

    kernels = (
        _gathered("triton_experts_rotated_gathered", "rotary_experts", _unfit_rotated_gathered),
        _kernel(
            "triton_experts_rotated_summed",
            "rotary_experts",
            f"keys rotated back instead of queries; {_SUMS}",
            _unfit_rotated,
            summed=True,
        ),
        _kernel(
            "triton_experts_rotated",
            "rotary_experts",
            "keys rotated back instead of queries; tokens sorted by expert in three launches",
            _unfit_rotated,
        ),
        Kernel(
            "rotary_experts",
            f"{_REFERENCE}:rotary_experts",
            "reference: rotate and route, then experts in grouped products",
            prepare=f"{_REFERENCE}:cast_experts",
            prepared=5,
            casts=2,
            specialize=with_fields(sums=False, gathered=False),
            traceable=False,
        ),
    )

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        expect(self, inputs[2:], step_angles(self.width))
        return super().types(inputs[:2])

    def arguments(self) -> dict[str, Any]:
        return {**super().arguments(), "index": self.index}

    def saved(self, at: CostContext) -> SavedTensors:
        """Save both inputs, gate and up, numbers per choice, and the rotated keys."""
        kept = at.compute_bytes * 2 * self.active * self.hidden + self._routed(at)
        return SavedTensors(inputs=(0, 1), extra=kept, once=4 * self.experts * self.width)

    def workspace(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """Forward, there is also an fp32 copy of the query besides the logits."""
        workspace = super().workspace(at, flow)
        copy = 4 * self.width if _narrow(at) else 0
        logits = self._routed(at) + 4 * self.experts + copy
        return workspace._replace(forward=largest(workspace.forward, logits))

    def _routed(self, at: CostContext) -> float:
        return 16 * self.active + 4


def _narrow(at: CostContext) -> bool:
    """Return whether queries are copied to fp32."""
    return at.stream_bytes < 4
