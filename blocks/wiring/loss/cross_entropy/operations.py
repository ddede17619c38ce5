"""The operations of the cross-entropy loss. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from blocks.ir.costs import CostContext, IOBytes, SavedTensors, WorkspaceBytes
from blocks.ir.decoding import LOCAL
from blocks.ir.kernel import Kernel, with_fields
from blocks.ir.numbers import largest, smallest
from blocks.ir.operation import Operation, expect
from blocks.ir.tensor_type import IDS, SCALAR, Shape, TensorType
from blocks.kernels.gpu import off_triton
from blocks.primitives.fused_operations import with_onednn
from blocks.primitives.operations import Project
from blocks.wiring.loss.cross_entropy.chunks import chunk_tokens, chunks_pay

_REFERENCE = "blocks.wiring.loss.cross_entropy.reference"
_FUSED = "blocks.wiring.loss.cross_entropy.fused"
CHECK = "blocks.wiring.loss.cross_entropy.check:check"

_BY_CHUNKS = Kernel(
    "head_loss",
    "blocks.wiring.loss.cross_entropy.by_chunks:head_loss",
    "logits by chunks of tokens, their gradients made with them; none are kept",
    specialize=with_fields(fused=False),
)


@dataclass(frozen=True)
class CrossEntropy(Operation):
    """Mean cross-entropy over the targets that are not -100: (logits, targets) -> loss.

    `tokens` is the number of tokens of a micro-batch, which decides whether the head is fused.
    """

    vocab: int
    tokens: int = 1

    kernels = (Kernel("cross_entropy", f"{_REFERENCE}:cross_entropy", "log-softmax in fp32"),)

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        expect(self, inputs, (self.vocab,), IDS)
        return (SCALAR,)

    def saved(self, at: CostContext) -> SavedTensors:
        """Save the fp32 log-softmax and the int64 targets."""
        return SavedTensors(inputs=(1,), extra=4 * self.vocab)

    def works_in(self, at: CostContext) -> Literal["any", "compute", "fp32"]:
        """The log-softmax is in fp32."""
        return "fp32"

    def workspace(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """Backward, the gradients of the log-softmax and of the logits, in fp32."""
        return WorkspaceBytes(flow.casts + 4 * self.vocab, 8 * self.vocab, 8 * self.vocab)

    def absorb(self, position: int, producer: Operation, shared: bool) -> Operation | None:
        """Fuse the head if the logits of a micro-batch take more than one chunk."""
        if position or not isinstance(producer, Project) or producer.outputs != ((self.vocab,),):
            return None
        if producer.bias:
            return None
        return HeadLoss(producer.fan_in, self.vocab) if chunks_pay(self.vocab, self.tokens) else None


@dataclass(frozen=True)
class HeadLoss(Operation):
    """The head and the mean cross-entropy by chunks of tokens: (x, targets) -> loss, logits.

    Returns the loss if there are targets, as in training, else the logits; the other output is None.
    """

    width: int
    vocab: int
    fused: bool = field(default=False, kw_only=True)
    """Whether the Triton kernel replaces logits by their gradients in place."""

    kernels = (
        Kernel(
            "triton_head_loss",
            f"{_FUSED}:head_loss",
            "logits by chunks of tokens, turned into their gradients in place; none are kept",
            off_triton,
            specialize=with_fields(fused=True),
            check=CHECK,
        ),
        with_onednn(_BY_CHUNKS),
        _BY_CHUNKS,
    )
    decoding = LOCAL
    recomputable = False
    worth_fusing = None

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return a scalar and the logits, which are not computed in training."""
        expect(self, inputs, (self.width,), IDS)
        return (SCALAR, TensorType((self.vocab,), "none"))

    def weight_shapes(self) -> tuple[Shape, ...]:
        """Return [vocab, width]."""
        return ((self.vocab, self.width),)

    def traffic(self, at: CostContext, read: float, written: float) -> float:
        """Write and read the logits."""
        return read + 2 * at.compute_bytes * self.vocab

    def saved(self, at: CostContext) -> SavedTensors:
        """Save the gradient of the input in the dtype of products, and that of the weight in fp32."""
        return SavedTensors(extra=at.compute_bytes * self.width, once=4 * self.vocab * self.width)

    def workspace(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """Besides the saved tensors, a chunk and the cast weight; backward, the scaled gradients."""
        cast = at.compute_bytes * self.vocab * self.width if at.compute_bytes < at.weight_bytes else 0
        forward = self.saved(at).extra + (self._chunk(at) + cast) / at.tokens + (4 if self.fused else 0)
        return WorkspaceBytes(forward, flow.grad_inputs, flow.grad_inputs)

    def _chunk(self, at: CostContext) -> float:
        """Return the bytes of a chunk: the fp32 softmax and the logits, or the products for gradients.

        With the kernel, only the logits.
        """
        if self.fused:
            tokens = smallest(chunk_tokens(self.vocab, at.compute_bytes), at.tokens)
            return tokens * at.compute_bytes * self.vocab
        tokens = smallest(chunk_tokens(self.vocab), at.tokens)
        part = at.compute_bytes * self.width
        copy = at.widened if at.device == "cpu" else 0
        softmax = tokens * ((at.compute_bytes + copy + 4) * self.vocab)
        product = at.compute_bytes * self.vocab * self.width if at.widened else 0
        gradients = tokens * (at.compute_bytes * self.vocab + part) + product
        cast = tokens * part if at.compute_bytes < at.stream_bytes else 0
        return cast + largest(softmax, gradients)
