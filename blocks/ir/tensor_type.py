"""The type of a value: the dimensions and the precision of its tensor. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Literal

Shape = tuple[int, ...]

Element = Literal["none", "bool", "compute", "stream", "fp32", "int"]
"""The type of an element: `compute`, a float in the dtype of matrix products; `stream`, a float in the dtype
of weights and the residual stream; `fp32`; `int`, an int64; `bool`; or `none`, for a value that training does
not compute.
"""

Kind = Literal[
    "token", "steps", "row", "table", "constant", "mask", "pairs", "depth_cache", "scalar", "order"
]
"""The leading dimensions of a value, before those of its shape.

`token`: [batch, sequence, *shape]; `steps`: a tuple with one such tensor per step of a loop, where the first
size of the shape is the number of steps; `row`: [batch, *shape]; `table`: [sequence, *shape]; `constant`:
[*shape]; `mask`: [sequence, sequence]; `pairs`: [batch, sequence, sequence]; `depth_cache`: slots that steps
write and read, of shape (slots, ...) per token; `scalar`: one number per micro-batch; `order`: a tensor
without data that orders writes and reads.
"""

_WIDTHS: tuple[Element, ...] = ("none", "compute", "stream", "fp32")


@dataclass(frozen=True, slots=True)
class TensorType:
    """The type of a value of a graph.

    Attributes:
        shape: the sizes of its dimensions after the leading ones of its kind.
        element: the precision of its elements.
        kind: its leading dimensions.
    """

    shape: Shape = ()
    element: Element = "compute"
    kind: Kind = "token"

    @property
    def size(self) -> int:
        """Number of elements per token, summed over steps; 0 for kinds without tokens."""
        return prod(self.shape) if self.kind in ("token", "steps") else 0

    @property
    def is_float(self) -> bool:
        """Whether it is a float that may have a gradient."""
        return self.kind in ("token", "steps", "scalar") and self.element not in ("int", "bool")

    def table_bytes(self, context: int, tokens: int, size: int) -> int:
        """Return the bytes of a table, mask or pairs, 0 for other kinds.

        Args:
            context: tokens of a sequence.
            tokens: tokens of all sequences.
            size: bytes of an element of `pairs`.
        """
        match self.kind:
            case "table":
                return 4 * context * prod(self.shape)
            case "mask":
                return context * context
            case "pairs":
                return size * tokens * context
            case _:
                return 0

    def fits(self, wanted: TensorType) -> bool:
        """Return whether it can be used where `wanted` is expected; the precision of floats is ignored."""
        return (
            self.shape == wanted.shape
            and self.kind == wanted.kind
            and (self.element == "int") == (wanted.element == "int")
        )

    def __str__(self) -> str:
        return self._text("" if self.kind == "order" else self.element)

    def needs(self) -> str:
        """Return the type as text without the precision of floats, which `fits` ignores."""
        return self._text("int" if self.element == "int" else "")

    def _text(self, element: str) -> str:
        sizes = "x".join(map(str, self.shape))
        kind = "" if self.kind == "token" else self.kind.replace("_", " ")
        return " ".join(part for part in (sizes, element, kind) if part)


IDS = TensorType((), "int")
"""Token ids, or targets."""

KEY = TensorType((), "int", "row")
"""The key of a random number generator: one number per row of the batch."""

TRAINING = TensorType((), "bool", "constant")
"""Whether the model is in training mode, a Python bool."""

SCALAR = TensorType((), "fp32", "scalar")
ORDER = TensorType((), kind="order")


def widest(*values: TensorType | Element) -> Element:
    """Return the widest of several precisions: the precision of a sum of such values."""
    elements = [value.element if isinstance(value, TensorType) else value for value in values]
    return max(elements, key=_WIDTHS.index)
