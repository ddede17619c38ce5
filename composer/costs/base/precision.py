"""Bytes per element for each training precision."""

from __future__ import annotations

from typing import Literal, NamedTuple

from composer.language.schema.spec import Spec


class Precision(NamedTuple):
    """Bytes per element, and the device that holds them.

    Attributes:
        weight: bytes per element of parameters, their gradients and AdamW's moments.
        stream: bytes per element of the residual stream and of norms.
        compute: bytes per element of products and of tensors saved inside blocks.
        device: the device, which decides what some kernels save.
    """

    weight: int
    stream: int
    compute: int
    device: Literal["cpu", "cuda"] = "cpu"


FULL = Precision(4, 4, 4)
MIXED = Precision(4, 4, 2)
"""bf16-mixed: autocast casts the inputs of products."""
BF16 = Precision(2, 2, 2)
"""A module cast to bf16 as a whole; used in measurements only, no spec asks for it."""


def precision(spec: Spec, auto: Precision = FULL) -> Precision:
    """Return the precision that a spec trains in; `auto` replaces "auto", by default fp32."""
    said = spec.train.precision if spec.train else "auto"
    return {32: FULL, "bf16-mixed": MIXED}.get(said, auto)
