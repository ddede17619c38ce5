"""The operation of the head and the cross-entropy at every step. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from blocks.ir.costs import CostContext, IOBytes, SavedTensors, WorkspaceBytes
from blocks.ir.kernel import Kernel, Target, with_fields
from blocks.ir.numbers import largest
from blocks.ir.operation import Operation, expect
from blocks.ir.tensor_type import IDS, SCALAR, Shape, TensorType
from blocks.kernels.gpu import off_triton
from blocks.primitives.fused_operations import with_onednn
from blocks.wiring.loss.cross_entropy.chunks import chunks_pay
from blocks.wiring.loss.cross_entropy.operations import CHECK, HeadLoss

Weighting = Literal["uniform", "linear"]


def _small(operation: StepsCrossEntropy, target: Target) -> str:
    pays = chunks_pay(operation.vocab, operation.tokens)
    return "" if pays else "the logits of a micro-batch are no more than one chunk"


def _unfit(operation: StepsCrossEntropy, target: Target) -> str:
    return off_triton(operation, target) or _small(operation, target)


_BY_CHUNKS = Kernel(
    "steps_head_loss",
    "blocks.wiring.loss.cross_entropy.steps_by_chunks:steps_head_loss",
    "logits by chunks of tokens, their gradients made with them; none are kept",
    _small,
    specialize=with_fields(by_chunks=True, fused=False),
    traceable=False,
)


@dataclass(frozen=True)
class StepsCrossEntropy(Operation):
    """The head at each step, and the weighted mean of the steps' losses.

    (normed states, targets) -> loss, loss of the last step. `tokens` is the size of a micro-batch in tokens.
    """

    width: int
    vocab: int
    steps: int
    tokens: int
    weighting: Weighting
    by_chunks: bool = field(default=False, kw_only=True)
    fused: bool = field(default=False, kw_only=True)

    kernels = (
        Kernel(
            "triton_steps_head_loss",
            "blocks.wiring.loss.cross_entropy.fused:steps_head_loss",
            "logits by chunks of tokens, turned into their gradients in place; none are kept",
            _unfit,
            specialize=with_fields(by_chunks=True, fused=True),
            check=CHECK,
        ),
        with_onednn(_BY_CHUNKS),
        _BY_CHUNKS,
        Kernel(
            "steps_cross_entropy",
            "blocks.wiring.loss.cross_entropy.reference:steps_cross_entropy",
            "reference: head and log-softmax in fp32, step by step",
            specialize=with_fields(by_chunks=False, fused=False),
            traceable=False,
        ),
    )
    recomputable = False

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        states = TensorType((self.steps, self.width), kind="steps")
        expect(self, inputs, states, IDS)
        return (SCALAR, SCALAR)

    def weight_shapes(self) -> tuple[Shape, ...]:
        """Return [vocab, width]."""
        return ((self.vocab, self.width),)

    def arguments(self) -> dict[str, Any]:
        return {"weighting": self.weighting}

    def flops(self, at: CostContext) -> float:
        """The head, once per step."""
        return 2 * self.steps * self.width * self.vocab

    def saved(self, at: CostContext) -> SavedTensors:
        """Save states, targets and the fp32 log-softmax of each step; by chunks, the gradients instead."""
        if self.by_chunks:
            kept = at.compute_bytes * self.steps * self.width
            return SavedTensors(extra=kept, once=4 * self.vocab * self.width)
        return SavedTensors(inputs=(0, 1), extra=4 * self.steps * self.vocab)

    def works_in(self, at: CostContext) -> Literal["any", "compute", "fp32"]:
        """Autocast casts the inputs of products."""
        return "compute"

    def traffic(self, at: CostContext, read: float, written: float) -> float:
        """Write and read the logits of each step."""
        return read + 2 * at.compute_bytes * self.steps * self.vocab

    def workspace(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """Forward, the peak is at the last step; backward, gradients of states replace saved tensors."""
        compute, vocab, width, later = at.compute_bytes, self.vocab, self.width, self.steps - 1
        kept = self.saved(at).extra
        if self.by_chunks:
            one = HeadLoss(width, vocab, fused=self.fused)
            workspace = one.workspace(at, flow)
            forward = kept - one.saved(at).extra + workspace.forward
            return WorkspaceBytes(forward, flow.grad_inputs, flow.grad_inputs)
        forward = kept + flow.casts + (compute + at.widened) * vocab
        # each step replaces its log-softmax and its state, or the state's cast copy, by a gradient
        left = flow.grad_inputs / self.steps - 4 * vocab - compute * width
        softmax = 8 * vocab
        product = (compute - 4) * vocab + compute * width
        grown = largest(0, later * left)
        backward = largest(softmax, product) + grown
        # from the second step on, the gradient of the weight is allocated besides the sum
        second = compute * vocab * width / at.tokens if self.steps > 1 else 0
        return WorkspaceBytes(forward, backward, product + second + grown)
