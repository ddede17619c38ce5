"""Routing and experts as one operation, where kernels run both. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from blocks.expert_attention.tiles import BITS, LARGEST, MOST_ACTIVE
from blocks.ir.costs import CostContext, IOBytes, SavedTensors, WorkspaceBytes
from blocks.ir.decoding import LOCAL
from blocks.ir.kernel import Kernel, Target
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
    """Return why the Triton kernels cannot run, or ""."""
    if off := off_triton(target):
        return off
    if operation.width % 8 or operation.hidden % 8:
        return "width or hidden is no multiple of 8, so of 16 bytes in every dtype"
    if operation.experts > LARGEST or operation.active > MOST_ACTIVE:
        return f"more than {LARGEST} experts, or {MOST_ACTIVE} active"
    return ""


def _unfit_gathered(operation: RoutedExperts, target: Target) -> str:
    """Return why the first product cannot be our own, or ""."""
    wide = "its own grouped product has no tensor cores in float32" if target.dtype == "float32" else ""
    return _unfit(operation, target) or wide


def _with_gathered(operation: RoutedExperts) -> RoutedExperts:
    return replace(operation, sums=True, gathered=True)


def _with_sums(operation: RoutedExperts) -> RoutedExperts:
    return replace(operation, sums=True)


def _kernel(
    name: str, function: str, why: str, unfit: Callable[[Any, Target], str], summed: bool = False
) -> Kernel:
    """Return a kernel of experts; `summed`, gradients of their weights are made of several steps' rows."""
    made = Kernel(
        name,
        f"{_FUSED}:{function}",
        why,
        unfit,
        prepare=f"{_REFERENCE}:cast_experts",
        prepared=5,
        casts=2,
        check=f"{_CHECK}:check",
    )
    if not summed:
        return made
    prepare, check = f"{_FUSED}:sum_experts", f"{_CHECK}:check_sums"
    return replace(made, prepare=prepare, sums=2, specialize=_with_sums, check=check)


def _gathered(name: str, function: str, unfit: Callable[[Any, Target], str]) -> Kernel:
    """Return the kernel of experts whose first product is our own, with gradients of several steps' rows."""
    why = "the first grouped product gathers its rows and gates them in one launch; the second is torch's"
    made = _kernel(name, function, f"{why}; {_SUMS}", unfit, summed=True)
    return replace(made, specialize=_with_gathered, check=f"{_CHECK}:check_gathered")


@dataclass(frozen=True)
class RoutedExperts(Operation):
    """Choose experts by the query, run them on x, sum them by weight: (x, query) -> y.

    What `Experts` makes of itself and its `Route`, only where its kernels fit: costs are those under kernels.
    """

    width: int
    experts: int
    active: int
    hidden: int
    balance_rate: float

    sums: bool = field(default=False, kw_only=True)
    """Whether the rows of a step stay until those of several make the gradients of weights."""
    gathered: bool = field(default=False, kw_only=True)
    """Whether the first product reads its rows from tokens, and gates what it makes."""

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
            traceable=False,
        ),
    )
    update = f"{_REFERENCE}:update_balance"

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        expect(self, inputs, (self.width,), (self.width,))
        return (TensorType((self.width,)),)

    def weight_shapes(self) -> tuple[Shape, ...]:
        """Return gate and up side by side, down, keys, balancing bias and load."""
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
        """One score per expert, and three products of width x hidden for each chosen one."""
        return 2 * self.width * self.experts + 6 * self.active * self.width * self.hidden

    def traffic(self, at: CostContext, read: float, written: float) -> float:
        """Write and read the logits, sorted rows, both halves, their product and the outputs.

        Gathered rows are read alone, and both halves written alone.
        """
        first = self.width + 2 * self.hidden if self.gathered else 2 * self.width + 4 * self.hidden
        inner = self.active * (first + 2 * self.hidden + 2 * self.width)
        return read + 8 * self.experts + at.compute_bytes * inner + written

    def saved(self, at: CostContext) -> SavedTensors:
        """Save both inputs, both halves, and per choice its weight, expert, row, and what stands in a row.

        The query is kept in fp32, keys too; what weights were divided by is one number more.
        """
        keys = 4 * self.experts * self.width if at.weight_bytes < 4 else 0
        return SavedTensors(
            inputs=(0,) if _narrow(at) else (0, 1),
            extra=at.compute_bytes * 2 * self.active * self.hidden + self._routed(at),
            once=keys,
        )

    def workspace(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """Forward, logits while they are sorted, or what stands around the second product.

        Backward, the gradients around the second product, then around the first; logits' come last.
        """
        size, active = at.compute_bytes, self.active
        rows, hidden = size * active * self.width, size * active * self.hidden
        # a byte and an integer of each tile and expert
        sorting = 4 * self.experts + 5 * self.experts / BITS
        second = largest(3 * hidden + rows, 2 * hidden + rows + flow.outputs)
        forward = self._routed(at) + largest(sorting, second)
        weights, to_x = 4 * active, flow.grad_inputs / 2
        first = 2 * hidden + rows + weights + to_x
        query = 4 * self.width if _narrow(at) else 0
        last = flow.grad_inputs + query + 4 * self.experts - 2 * hidden
        if self.sums:
            # what the gradients of weights are made of stays
            first, last = 3 * hidden + rows + weights + to_x, last + 3 * hidden
        backward = largest(3 * hidden + rows + weights, first, last)
        return WorkspaceBytes(forward, backward, largest(first, last))

    def absorb(self, position: int, producer: Operation, shared: bool) -> Operation | None:
        """Fuse the rotation of the query, which turns keys instead."""
        if type(self) is not RoutedExperts or position != 1 or shared or type(producer) is not RotateStep:
            return None
        sizes = self.width, self.experts, self.active, self.hidden, self.balance_rate
        return RotaryExperts(*sizes, index=producer.index)

    def _routed(self, at: CostContext) -> float:
        """Return the bytes per token that routing keeps: numbers of its choices, and the query if copied."""
        return 16 * self.active + 4 + (4 * self.width if _narrow(at) else 0)


def _unfit_rotated(operation: RotaryExperts, target: Target) -> str:
    longer = operation.width > LONGEST_ROW
    return _unfit(operation, target) or (f"keys are longer than {LONGEST_ROW}" if longer else "")


def _unfit_rotated_gathered(operation: RotaryExperts, target: Target) -> str:
    return _unfit_rotated(operation, target) or _unfit_gathered(operation, target)


@dataclass(frozen=True)
class RotaryExperts(RoutedExperts):
    """The same with queries that are rotated over depth: (x, query, angles) -> y.

    Keys are rotated back in their place, a few rows instead of one for each token: the product of a rotated
    query with a key is that of the query with the key rotated back.
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
            traceable=False,
        ),
    )

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        expect(self, inputs[2:], step_angles(self.width))
        return super().types(inputs[:2])

    def arguments(self) -> dict[str, Any]:
        return {**super().arguments(), "index": self.index}

    def saved(self, at: CostContext) -> SavedTensors:
        """Save both inputs as they are, both halves, numbers of each choice, and the rotated keys."""
        kept = at.compute_bytes * 2 * self.active * self.hidden + self._routed(at)
        return SavedTensors(inputs=(0, 1), extra=kept, once=4 * self.experts * self.width)

    def workspace(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """Forward, a copy of the query in fp32 stands beside the logits too."""
        scratch = super().workspace(at, flow)
        copy = 4 * self.width if _narrow(at) else 0
        logits = self._routed(at) + 4 * self.experts + copy
        return scratch._replace(forward=largest(scratch.forward, logits))

    def _routed(self, at: CostContext) -> float:
        return 16 * self.active + 4


def _narrow(at: CostContext) -> bool:
    """Return whether queries are copied in fp32."""
    return at.stream_bytes < 4
