"""Operations of the model rather than of a block: embedding, injection, mixing, loss. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from blocks.ir.costs import CostContext, IOBytes, SavedTensors, SavesNothing, WorkspaceBytes
from blocks.ir.kernel import Kernel
from blocks.ir.numbers import largest, smallest
from blocks.ir.operation import LoopIndex, Operation, expect
from blocks.ir.tensor_type import IDS, SCALAR, Shape, TensorType, widest
from blocks.primitives.operations import Project
from composer.graph.lowering.chunks import chunk_tokens, chunks_pay

_REFERENCE = "composer.module.emission.functions"


@dataclass(frozen=True)
class Embed(Operation):
    """Look up the token's row and scale it to a root mean square of 1: (tokens) -> x."""

    vocab: int
    width: int

    reads_weights = False
    kernels = (Kernel("embed", f"{_REFERENCE}:embed", "a lookup; its gradient is no product"),)
    # what it makes is carried into the first stage, and it keeps nothing but the tokens
    recomputable = False

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the width."""
        expect(self, inputs, IDS)
        return (TensorType((self.width,), "stream"),)

    def weight_shapes(self) -> tuple[Shape, ...]:
        """Return [vocab, width]."""
        return ((self.vocab, self.width),)

    def traffic(self, at: CostContext, given: float, made: float) -> float:
        """Read the rows that are looked up, write them scaled."""
        return 2 * made

    def saved(self, at: CostContext) -> SavedTensors:
        """Keep the token ids, int64."""
        return SavedTensors(inputs=(0,))

    def scratch(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """The rows stand beside what they are scaled to, either way."""
        return WorkspaceBytes(2 * flow.made, flow.made, 0)


@dataclass(frozen=True)
class InjectAdd(SavesNothing, Operation):
    """Add the stage's input at every step but the first: (x, start) -> x."""

    width: int
    index: LoopIndex

    gradients = "passed"
    kernels = (Kernel("inject_add", f"{_REFERENCE}:inject_add", "elementwise, skipped at the first step"),)

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the width."""
        expect(self, inputs, (self.width,), (self.width,))
        return (TensorType((self.width,), widest(*inputs)),)

    def arguments(self) -> dict[str, Any]:
        """Return the step's index."""
        return {"index": self.index}


@dataclass(frozen=True)
class InjectConcat(Operation):
    """Project the state and the stage's input side by side back to the width: (x, start) -> x."""

    width: int

    gradients = "joint"
    kernels = (Kernel("inject_concat", f"{_REFERENCE}:inject_concat", "copied side by side for one product"),)

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the width."""
        expect(self, inputs, (self.width,), (self.width,))
        return (inputs[0],)

    def weight_shapes(self) -> tuple[Shape, ...]:
        """Return [width, 2 * width]."""
        return ((self.width, 2 * self.width),)

    def saved(self, at: CostContext) -> SavedTensors:
        """Keep both inputs as one copy."""
        return SavedTensors(extra=at.compute_bytes * 2 * self.width)

    def scratch(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """The copy is cast where products are narrower than the stream."""
        cast = at.stream_bytes if at.compute_bytes < at.stream_bytes else 0
        backward = at.compute_bytes * 2 * self.width
        return WorkspaceBytes((at.compute_bytes + 2 * cast) * self.width + backward, backward, backward)


@dataclass(frozen=True)
class Mean(SavesNothing, Operation):
    """The mean of the branches."""

    width: int
    branches: int

    gradients = "joint"
    kernels = (Kernel("mean", f"{_REFERENCE}:mean", "elementwise"),)

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the width."""
        expect(self, inputs, *[(self.width,)] * self.branches)
        return (TensorType((self.width,), widest(*inputs)),)

    def scratch(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """The branches are stacked."""
        return WorkspaceBytes((self.branches + 1) * flow.made, flow.given, flow.given)


@dataclass(frozen=True)
class Gate(Operation):
    """Weight the branches by a softmax over one logit each, per token: (logits, branches...) -> y."""

    width: int
    branches: int

    kernels = (Kernel("gate", f"{_REFERENCE}:gate", "softmax over the branches, elementwise"),)

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the width."""
        expect(self, inputs, (self.branches,), *[(self.width,)] * self.branches)
        return (TensorType((self.width,), widest(*inputs[1:])),)

    def saved(self, at: CostContext) -> SavedTensors:
        """Keep the branches and the softmax, and its copy where the branches are narrower."""
        narrow = at.compute_bytes if at.widened else 0
        return SavedTensors(inputs=tuple(range(1, 1 + self.branches)), extra=(4 + narrow) * self.branches)

    def scratch(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """The sum so far, the next product and their sum; backward, one product beside all gradients."""
        backward = (self.branches + 1) * (flow.made + at.compute_bytes)
        return WorkspaceBytes(3 * flow.made + self.saved(at).extra, backward, backward)


@dataclass(frozen=True)
class CrossEntropy(Operation):
    """Mean cross-entropy over the targets that are not -100: (logits, targets) -> loss.

    `tokens` are those of a micro-batch, by which it decides whether it takes over the head.
    """

    vocab: int
    tokens: int = 1

    kernels = (Kernel("cross_entropy", f"{_REFERENCE}:cross_entropy", "log-softmax in fp32"),)

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return a scalar."""
        expect(self, inputs, (self.vocab,), IDS)
        return (SCALAR,)

    def saved(self, at: CostContext) -> SavedTensors:
        """Keep the fp32 log-softmax and the targets, int64."""
        return SavedTensors(inputs=(1,), extra=4 * self.vocab)

    def works_in(self, at: CostContext) -> Literal["any", "compute", "fp32"]:
        """The log-softmax is in fp32."""
        return "fp32"

    def scratch(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """Backward, the gradients of the log-softmax and of the logits, in fp32."""
        return WorkspaceBytes(flow.copied + 4 * self.vocab, 8 * self.vocab, 8 * self.vocab)

    def absorb(self, position: int, producer: Operation, shared: bool) -> Operation | None:
        """Take over the head where the logits of a micro-batch are larger than those of a chunk."""
        if position or not isinstance(producer, Project) or producer.outputs != ((self.vocab,),):
            return None
        return HeadLoss(producer.fan_in, self.vocab) if chunks_pay(self.vocab, self.tokens) else None


@dataclass(frozen=True)
class HeadLoss(Operation):
    """The head and its mean cross-entropy, by chunks of tokens: (x, targets) -> loss, logits.

    It makes the loss where there are targets, which all that trains has, and else the logits.
    """

    width: int
    vocab: int

    kernels = (
        Kernel(
            "head_loss",
            "composer.module.emission.loss:head_loss",
            "logits by chunks of tokens, their gradients made with them; none are kept",
        ),
    )
    recomputable = False

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return a scalar and the logits, which training does not make."""
        expect(self, inputs, (self.width,), IDS)
        return (SCALAR, TensorType((self.vocab,), "none"))

    def weight_shapes(self) -> tuple[Shape, ...]:
        """Return [vocab, width]."""
        return ((self.vocab, self.width),)

    def traffic(self, at: CostContext, given: float, made: float) -> float:
        """Write the logits and read them."""
        return given + 2 * at.compute_bytes * self.vocab

    def saved(self, at: CostContext) -> SavedTensors:
        """Keep the gradient of the input as products make it, and that of the weight in fp32."""
        return SavedTensors(extra=at.compute_bytes * self.width, once=4 * self.vocab * self.width)

    def scratch(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """Beside what is kept, a chunk and the cast weight; backward, gradients are scaled."""
        cast = at.compute_bytes * self.vocab * self.width if at.compute_bytes < at.weight_bytes else 0
        forward = self.saved(at).extra + (self._chunk(at) + cast) / at.tokens
        return WorkspaceBytes(forward, flow.given, flow.given)

    def _chunk(self, at: CostContext) -> float:
        """Return the bytes of a chunk: the softmax in fp32 beside the logits, or products for gradients."""
        tokens = smallest(chunk_tokens(self.vocab), at.tokens)
        part = at.compute_bytes * self.width
        copy = at.widened if at.device == "cpu" else 0
        softmax = tokens * ((at.compute_bytes + copy + 4) * self.vocab)
        product = at.compute_bytes * self.vocab * self.width if at.widened else 0
        gradients = tokens * (at.compute_bytes * self.vocab + part) + product
        cast = tokens * part if at.compute_bytes < at.stream_bytes else 0
        return cast + largest(softmax, gradients)
