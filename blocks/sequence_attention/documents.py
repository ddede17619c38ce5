"""Attention within documents: a mask per sequence, computed once for all uses. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from blocks.ir.costs import CostContext, SavedTensors, SavesNothing
from blocks.ir.kernel import Kernel
from blocks.ir.operation import Operation, expect
from blocks.ir.tensor_type import IDS, TensorType
from blocks.sequence_attention.operations import WindowAttend

_REFERENCE = "blocks.sequence_attention.documents_reference"
PAIRS = TensorType((), "fp32", "pairs")


@dataclass(frozen=True)
class DocumentMask(SavesNothing, Operation):
    """The additive mask: 0 for visible tokens of the same document, else -inf; (tokens) -> mask.

    Attributes:
        start: the id of the token that begins a document.
        window: the number of visible tokens; None for all of the document.
    """

    start: int
    window: int | None

    decoding = f"{_REFERENCE}:next_mask"
    kernels = (Kernel("document_mask", f"{_REFERENCE}:document_mask", "made once per forward"),)
    recomputable = False

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        expect(self, inputs, IDS)
        return (PAIRS,)

    def arguments(self) -> dict[str, Any]:
        return {"start": self.start, "window": self.window}


@dataclass(frozen=True)
class DocumentAttend(WindowAttend):
    """Attention with a mask per sequence: (q, k, v, mask) -> y.

    Costs assume one document of the length of the sequence.
    """

    decoding = f"{_REFERENCE}:attend_next"
    kernels: ClassVar[tuple[Kernel, ...]] = (
        Kernel(
            "sdpa_documents",
            f"{_REFERENCE}:attend_documents",
            "torch's attention under a mask of documents, which flash and cuDNN kernels do not take",
        ),
        Kernel("attend_plain", f"{_REFERENCE}:attend_plain", "reference: scores, mask, softmax, sum"),
    )

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        expect(self, inputs[3:], PAIRS)
        return super(WindowAttend, self).types(inputs[:3])

    def saved(self, at: CostContext) -> SavedTensors:
        """Also save the mask, which all uses share."""
        return SavedTensors(inputs=(0, 1, 2, 3), outputs=(0,), extra=4 * self.heads)

    def decoding_arguments(self) -> dict[str, Any]:
        return {"window": self.window}
