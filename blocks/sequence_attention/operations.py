"""The operations of sequence attention. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from blocks.ir.costs import CostContext, SavedTensors, SavesNothing
from blocks.ir.kernel import Kernel, Target, with_fields
from blocks.ir.numbers import smallest
from blocks.ir.operation import Operation, expect
from blocks.ir.tensor_type import TensorType
from blocks.kernels.gpu import off_gpu

_REFERENCE = "blocks.sequence_attention.reference"
_DECODING = "blocks.sequence_attention.decoding"
MASK = TensorType((), "bool", "mask")


def _unflashed(operation: WindowAttend, target: Target) -> str:
    if operation.sinks:
        return "it sees a window alone, without sinks"
    fits = operation.head_dim <= 256 and operation.head_dim % 8 == 0
    return off_gpu(operation, target) or (
        "" if fits else f"head_dim is {operation.head_dim}, not a multiple of 8 up to 256"
    )


@dataclass(frozen=True)
class WindowMask(SavesNothing, Operation):
    """The mask of visible tokens, True where 0 <= i - j < window: (tokens) -> mask.

    All later tokens see the first `sinks` tokens. Without a window, they see all earlier tokens.
    """

    window: int | None
    sinks: int = 0

    decoding = f"{_DECODING}:next_mask"
    kernels = (Kernel("window_mask", f"{_REFERENCE}:window_mask", "made once per forward"),)
    recomputable = False

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the mask, a constant without a batch dimension."""
        return (MASK,)

    def arguments(self) -> dict[str, Any]:
        return {"window": self.window, **({"sinks": self.sinks} if self.sinks else {})}


@dataclass(frozen=True)
class Attend(Operation):
    """Causal attention, softmax(q k^T / sqrt(head_dim)) v: (q, k, v) -> y."""

    heads: int
    kv_heads: int
    head_dim: int

    decoding = f"{_DECODING}:attend"
    decoding_of_some = f"{_DECODING}:attend_chosen"
    kernels: ClassVar[tuple[Kernel, ...]] = (
        Kernel(
            "sdpa_ordered",
            "blocks.sequence_attention.ordered:attend_ordered",
            "torch's fused causal attention, by cuDNN where that fits, then flash",
            off_gpu,
            check="blocks.sequence_attention.check:check_ordered",
            traceable=False,
        ),
        Kernel("sdpa", f"{_REFERENCE}:attend_causal", "torch's fused causal attention"),
        Kernel("attend_plain", f"{_REFERENCE}:attend_plain", "reference: scores, mask, softmax, sum"),
    )

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        q, kv = (self.heads, self.head_dim), (self.kv_heads, self.head_dim)
        expect(self, inputs, q, kv, kv)
        return (TensorType(q, inputs[2].element),)

    def seen(self, at: CostContext) -> int:
        """Return the number of tokens that the last token sees."""
        return at.context

    def pairs(self, at: CostContext) -> float:
        """Return the (query, key) pairs per token; without a window T (T + 1) / 2 in total."""
        if at.full_mask:
            return at.context
        seen = self.seen(at)
        return seen - seen * (seen - 1) / (2 * at.context)

    def flops(self, at: CostContext) -> float:
        """Two dot products of head_dim per head and pair."""
        return 4 * self.heads * self.head_dim * self.pairs(at)

    def saved(self, at: CostContext) -> SavedTensors:
        """Save queries, keys, values, the output and an fp32 log-sum-exp per head."""
        return SavedTensors(inputs=(0, 1, 2), outputs=(0,), extra=4 * self.heads)

    def sequence_cache(self, at: CostContext) -> int:
        """Keys and values that later tokens see, averaged over the tokens of the context."""
        whole = 2 * self.kv_heads * self.head_dim
        return -(-whole * self.seen(at) // at.context)


@dataclass(frozen=True)
class WindowAttend(Attend):
    """`Attend` over the last `window` tokens, the token itself included: (q, k, v, mask) -> y.

    Attributes:
        sinks: the number of first tokens that all later tokens see (StreamingLLM, arXiv 2309.17453).
        masked: whether it reads the mask; kernels with a window parameter do not.
    """

    window: int
    masked: bool = True
    sinks: int = 0

    decoding = f"{_DECODING}:attend_window"
    decoding_of_some = ""
    kernels: ClassVar[tuple[Kernel, ...]] = (
        Kernel(
            "flash_window",
            "blocks.sequence_attention.windowed:attend_windowed",
            "torch's flash attention, which goes through the window alone and needs no mask",
            _unflashed,
            specialize=with_fields(masked=False),
            dtypes=("bfloat16", "float16"),
            unused_inputs=(3,),
            check="blocks.sequence_attention.check:check_windowed",
            traceable=False,
        ),
        Kernel("sdpa_masked", f"{_REFERENCE}:attend_masked", "torch's attention under the window's mask"),
        Kernel("attend_plain", f"{_REFERENCE}:attend_plain", "reference: scores, mask, softmax, sum"),
    )

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        if self.masked:
            expect(self, inputs[3:], MASK)
        return super().types(inputs[:3])

    def arguments(self) -> dict[str, Any]:
        """Return the window for kernels without a mask."""
        return {} if self.masked else {"window": self.window}

    def decoding_arguments(self) -> dict[str, Any]:
        return {"window": self.window, "sinks": self.sinks}

    def seen(self, at: CostContext) -> int:
        """Return the number of tokens that the last token sees."""
        return smallest(self.window + self.sinks, at.context)

    def pairs(self, at: CostContext) -> float:
        """Return the pairs per token: within the window, and with sinks before it."""
        if at.full_mask:
            return at.context
        window = smallest(self.window, at.context)
        near = window - window * (window - 1) / (2 * at.context)
        if not self.sinks:
            return near
        beyond = at.context - window
        sinks = smallest(self.sinks, beyond)
        return near + (sinks * (sinks + 1) / 2 + (beyond - sinks) * sinks) / at.context

    def saved(self, at: CostContext) -> SavedTensors:
        """Also save the mask, cast to the compute dtype."""
        mask = at.compute_bytes * at.context * at.context if self.masked else 0
        return super().saved(at)._replace(once=mask)
