"""The key `optimizer` of `train`; each value is a folder here. Torch-free."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

from blocks.base.wiring import WiringConfig
from blocks.ir.operation import Weight


class Products(NamedTuple):
    """Matrix products, one after another.

    Attributes:
        number: how many.
        flops: of all.
    """

    number: float
    flops: float


class OptimizerChoice(WiringConfig):
    """The optimizer. All learning rates are multiples of `lr` and follow one schedule."""

    key = "optimizer"
    owner = ("train",)
    default = "adamw"
    key_aliases = "optim optimiser"

    maker: ClassVar[str] = ""
    """The function that makes it, as `module:name`; `adamw/optimizer.py` has its arguments."""
    takes_shards: ClassVar[bool] = True
    """Whether it can update a shard of a weight without the rest, as FSDP requires."""

    def moments(self, weight: Weight, in_stage: bool) -> int:
        """Return how many tensors of a weight's shape are kept for it; `in_stage` says where it is."""
        raise NotImplementedError

    def scalars(self, weight: Weight, in_stage: bool) -> int:
        """Return how many fp32 numbers are kept for a weight besides."""
        raise NotImplementedError

    def products(self, weight: Weight, in_stage: bool) -> Products:
        """Return the matrix products of one update of a weight, none by default."""
        return Products(0, 0)

    def workspace(self, weight: Weight, in_stage: bool, element: int) -> float:
        """Return the bytes in use while a weight, of so many bytes per element, is updated."""
        raise NotImplementedError
