"""The key `optimizer` of `train`; each value is a folder here. Torch-free."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

from blocks.base.wiring import WiringConfig
from blocks.ir.operation import Weight


class Products(NamedTuple):
    """A sequence of matrix products.

    Attributes:
        number: the number of products.
        flops: the FLOPs of all products.
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
    """The function that creates it, as `module:name`, with the arguments of `adamw/optimizer.py`."""
    takes_shards: ClassVar[bool] = True
    """Whether it can update a shard of a weight on its own, as FSDP requires."""

    def moments(self, weight: Weight, in_stage: bool) -> int:
        """Return the number of state tensors of a weight's shape; `in_stage`: the weight is in a stage."""
        raise NotImplementedError

    def scalars(self, weight: Weight, in_stage: bool) -> int:
        """Return the number of further fp32 state numbers of a weight."""
        raise NotImplementedError

    def products(self, weight: Weight, in_stage: bool) -> Products:
        """Return the matrix products of one update of a weight, none by default."""
        return Products(0, 0)

    def workspace(self, weight: Weight, in_stage: bool, element: int) -> float:
        """Return the peak workspace in bytes while a weight, of `element` bytes per element, is updated."""
        raise NotImplementedError
