"""The type of a value: what axes its tensor has, and in which precision its elements are. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Literal

Shape = tuple[int, ...]

Element = Literal["none", "bool", "compute", "stream", "fp32", "int"]
"""What an element is: nothing, for a value that training does not make; a bool; a float in the precision of
products (`compute`), in that of weights and of the residual stream (`stream`), or in fp32; or an int64.
"""

Kind = Literal[
    "token", "steps", "row", "table", "constant", "mask", "pairs", "depth_cache", "scalar", "order"
]
"""What axes stand before those of the shape.

`token`: [batch, sequence, *shape]; `steps`: a tuple with one such tensor for each step of a loop, whose
number is the first size of the shape; `row`: [batch, *shape]; `table`: [sequence, *shape];
`constant`: [*shape]; `mask`: [sequence, sequence]; `pairs`: [batch, sequence, sequence]; `depth_cache`:
slots that steps write and read, shape (slots, ...) per token; `scalar`: one number of the whole micro-batch;
`order`: a tensor without data, which orders writes and reads.
"""

_WIDTHS: tuple[Element, ...] = ("none", "compute", "stream", "fp32")


@dataclass(frozen=True, slots=True)
class TensorType:
    """The type of a value of a graph.

    Attributes:
        shape: sizes of its own axes: per token, where it is a value of tokens.
        element: precision of its elements.
        kind: which axes stand before these.
    """

    shape: Shape = ()
    element: Element = "compute"
    kind: Kind = "token"

    @property
    def size(self) -> int:
        """Number of elements per token, of all steps together; 0 where it is no value of tokens."""
        return prod(self.shape) if self.kind in ("token", "steps") else 0

    @property
    def is_float(self) -> bool:
        """Whether it has a gradient: a scalar, or a value of tokens, which may be cast."""
        return self.kind in ("token", "steps", "scalar") and self.element not in ("int", "bool")

    def table_bytes(self, context: int, tokens: int, size: int) -> int:
        """Return the bytes of a table or mask, which is made once for all blocks of a kind.

        Args:
            context: tokens of a sequence.
            tokens: of all sequences.
            size: bytes of an element.
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
        """Return whether it can be given where `wanted` is expected: floats of any precision are alike."""
        return (
            self.shape == wanted.shape
            and self.kind == wanted.kind
            and (self.element == "int") == (wanted.element == "int")
        )

    def __str__(self) -> str:
        return self._text("" if self.kind == "order" else self.element)

    def needs(self) -> str:
        """Return the type as text without the precision of floats, which `fits` does not look at."""
        return self._text("int" if self.element == "int" else "")

    def _text(self, element: str) -> str:
        sizes = "x".join(map(str, self.shape))
        kind = "" if self.kind == "token" else self.kind.replace("_", " ")
        return " ".join(part for part in (sizes, element, kind) if part)


IDS = TensorType((), "int")
"""Token ids, or targets."""

KEY = TensorType((), "int", "row")
"""What random numbers are drawn from: one number for each row of the batch."""

TRAINING = TensorType((), "bool", "constant")
"""Whether a pass is one of training: a bool of Python."""

SCALAR = TensorType((), "fp32", "scalar")
ORDER = TensorType((), kind="order")


def widest(*values: TensorType | Element) -> Element:
    """Return the widest precision of values, or of precisions: that of their sum."""
    elements = [value.element if isinstance(value, TensorType) else value for value in values]
    return max(elements, key=_WIDTHS.index)
