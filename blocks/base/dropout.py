"""Dropout. Torch-free."""

from __future__ import annotations

from blocks.base.builder import Builder
from blocks.ir.operation import Value
from blocks.ir.tensor_type import TRAINING


def dropout(build: Builder, x: Value, rate: float) -> Value:
    """Add dropout of `x` [width] with probability `rate`; nothing is added if that is 0."""
    if not rate:
        return x
    from blocks.primitives.random_operations import Dropout

    key, training = build.randomness("dropout"), build.model_input("training", TRAINING)
    return build.op("dropout", Dropout((build.width,), rate), x, key, training)
