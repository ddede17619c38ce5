"""Dropout of a value, as blocks and models add it. Torch-free."""

from __future__ import annotations

from blocks.base.builder import Builder
from blocks.ir.operation import Value
from blocks.ir.tensor_type import TRAINING


def dropout(build: Builder, x: Value, rate: float) -> Value:
    """Return `x` [width] with elements set to 0 with the probability `rate` in training; 0 adds nothing."""
    if not rate:
        return x
    from blocks.primitives.random_operations import Dropout

    key, training = build.randomness("dropout"), build.model_input("training", TRAINING)
    return build.op("dropout", Dropout((build.width,), rate), x, key, training)
