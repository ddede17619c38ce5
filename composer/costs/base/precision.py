"""Bytes per element for each training precision."""

from __future__ import annotations

from typing import Literal, NamedTuple

from composer.language.schema.spec import Spec


class Precision(NamedTuple):
    """Bytes per element, and the device that holds them.

    Attributes:
        weight: of parameters, their gradients and AdamW's moments.
        stream: of the residual stream and of norms.
        compute: of products and of what blocks keep.
        device: what runs it, where that decides what kernels keep.
    """

    weight: int
    stream: int
    compute: int
    device: Literal["cpu", "cuda"] = "cpu"


FULL = Precision(4, 4, 4)
MIXED = Precision(4, 4, 2)
"""bf16-mixed: autocast casts the inputs of products."""
BF16 = Precision(2, 2, 2)
"""A module cast to bf16 as a whole, which no spec asks for; measurements do."""


def precision(spec: Spec, auto: Precision = FULL) -> Precision:
    """Return the precision a spec trains in; `auto` is what stands for "auto", fp32 unless told otherwise."""
    said = spec.train.precision if spec.train else "auto"
    return {32: FULL, "bf16-mixed": MIXED}.get(said, auto)
