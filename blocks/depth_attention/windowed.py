"""Depth attention with a window, a stride or a bias by distance. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from blocks.depth_attention.operations import Attend, RotaryAttend
from blocks.ir.costs import CostContext
from blocks.ir.kernel import Kernel, with_fields
from blocks.ir.operation import Operation
from blocks.ir.tensor_type import Shape
from blocks.ir.windowed_mean import windowed_mean
from blocks.primitives.operations import RotateStep


@dataclass(frozen=True)
class WindowedAttend(Attend):
    """`Attend` over the last slots, or every n-th of them.

    Of R slots so far it reads R - 1, R - 1 - stride, R - 1 - 2 stride, ... down to R - window, or to 0.
    """

    window: int | None = None
    stride: int = 1

    kernels: ClassVar[tuple[Kernel, ...]] = (
        replace(Attend.kernels[0], name="triton_attend_windowed"),
        Kernel(
            "slot_attend_windowed",
            "blocks.depth_attention.reference:attend",
            "elementwise over the slots that are read; bound by bytes",
            specialize=with_fields(fused=False),
            by_autograd="blocks.depth_attention.by_autograd:attend",
        ),
    )

    def absorb(self, position: int, producer: Operation, shared: bool) -> Operation | None:
        """Fuse the rotary embedding of the query."""
        if position or shared or not isinstance(producer, RotateStep):
            return None
        sizes = self.heads, self.kv_heads, self.head_dim, self.span, self.reads
        return self._rotary()(*sizes, index=producer.index, window=self.window, stride=self.stride)

    def _rotary(self) -> type[RotaryWindowedAttend]:
        return RotaryWindowedAttend

    def arguments(self) -> dict[str, Any]:
        return {**super().arguments(), "window": self.window, "stride": self.stride}

    def slots(self, at: CostContext) -> float:
        """Return how many slots an execution reads, in the mean."""
        return windowed_mean(self.reads, at.trips, self.window, self.stride)


@dataclass(frozen=True)
class RotaryWindowedAttend(WindowedAttend, RotaryAttend):
    """`WindowedAttend` that rotates the queries: (q, token, slots, angles) -> y."""

    kernels: ClassVar[tuple[Kernel, ...]] = (
        replace(RotaryAttend.kernels[0], name="triton_attend_windowed_rotated"),
        Kernel(
            "slot_attend_windowed_rotated",
            "blocks.depth_attention.reference:attend_rotated",
            "queries turned, then elementwise over the slots that are read",
            specialize=with_fields(fused=False),
        ),
    )

    def absorb(self, position: int, producer: Operation, shared: bool) -> Operation | None:
        """Nothing else is fused."""
        return None


def _biased(kernels: tuple[Kernel, ...], name: str) -> tuple[Kernel, ...]:
    """Return the kernels of attention with a bias; the first adds up its gradient over all reads."""
    first, *others = kernels
    own = replace(first, name=f"triton_{name}", check="blocks.depth_attention.check:check_biased")
    return (
        replace(own, prepare="blocks.primitives.fused:sum_gain", prepared=1, sums=1),
        *(replace(each, name=f"slot_{name}") for each in others),
    )


@dataclass(frozen=True)
class BiasedAttend(WindowedAttend):
    """`WindowedAttend` that subtracts a learned number per head times the slot's distance from each score."""

    kernels = _biased(WindowedAttend.kernels, "attend_biased")

    def _rotary(self) -> type[RotaryWindowedAttend]:
        return RotaryBiasedAttend

    def weight_shapes(self) -> tuple[Shape, ...]:
        """Return [heads]."""
        return ((self.heads,),)


@dataclass(frozen=True)
class RotaryBiasedAttend(BiasedAttend, RotaryWindowedAttend):
    """`BiasedAttend` that rotates the queries: (q, token, slots, angles) -> y."""

    kernels = _biased(RotaryWindowedAttend.kernels, "attend_biased_rotated")
