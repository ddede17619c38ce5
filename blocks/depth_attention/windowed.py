"""Depth attention with a window, a stride or a bias by distance. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from blocks.depth_attention.operations import Attend, RotaryAttend, unfit
from blocks.ir.costs import CostContext
from blocks.ir.kernel import Kernel, Target, with_fields
from blocks.ir.operation import Operation
from blocks.ir.tensor_type import Shape
from blocks.ir.windowed_mean import windowed_mean
from blocks.primitives.operations import RotateStep


def _unfit(operation: WindowedAttend, target: Target) -> str:
    return unfit(operation, target) or ("it knows no bias by distance" if operation.biased else "")


@dataclass(frozen=True)
class WindowedAttend(Attend):
    """`Attend` over the last slots, or every n-th of them, optionally with a bias by distance.

    Of R slots so far it reads R - 1, R - 1 - stride, R - 1 - 2 stride, ... down to R - window, or to 0. With
    `biased`, a learned number per head times the slot's distance is subtracted from the score.
    """

    window: int | None = None
    stride: int = 1
    biased: bool = False

    kernels = (
        replace(Attend.kernels[0], name="triton_attend_windowed", unfit=_unfit),
        Kernel(
            "slot_attend_windowed",
            "blocks.depth_attention.reference:attend",
            "not fused: elementwise over the slots that are read; bound by bytes",
            specialize=with_fields(fused=False),
            by_autograd="blocks.depth_attention.by_autograd:attend",
        ),
    )

    def absorb(self, position: int, producer: Operation, shared: bool) -> Operation | None:
        """Fuse the rotary embedding of the query, where the kernel can run the rest."""
        if position or shared or self.biased or not isinstance(producer, RotateStep):
            return None
        sizes = self.heads, self.kv_heads, self.head_dim, self.span, self.reads
        window, stride = self.window, self.stride
        return RotaryWindowedAttend(*sizes, index=producer.index, window=window, stride=stride)

    def weight_shapes(self) -> tuple[Shape, ...]:
        """Return [heads] if there is a bias."""
        return ((self.heads,),) if self.biased else ()

    def arguments(self) -> dict[str, Any]:
        return {**super().arguments(), "window": self.window, "stride": self.stride}

    def slots(self, at: CostContext) -> float:
        """Return how many slots an execution reads, in the mean."""
        return windowed_mean(self.reads, at.trips, self.window, self.stride)


@dataclass(frozen=True)
class RotaryWindowedAttend(WindowedAttend, RotaryAttend):
    """`WindowedAttend` without a bias that rotates the queries: (q, token, slots, angles) -> y."""

    kernels = (
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
