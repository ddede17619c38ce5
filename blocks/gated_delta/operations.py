"""The operation of gated delta rule attention. Torch-free."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from blocks.ir.costs import CostContext, IOBytes, SavedTensors, WorkspaceBytes
from blocks.ir.kernel import Kernel, Target
from blocks.ir.numbers import largest, smallest
from blocks.ir.operation import Operation, expect
from blocks.ir.tensor_type import Shape, TensorType
from blocks.kernels.gpu import off_triton

CHUNK = 64
"""The number of tokens in a chunk, the same in fla's kernels."""
LONGEST_KEY = 256
"""The largest key_dim of fla's kernels."""


def without_fla() -> str:
    """Return why fla's kernels are not installed, or ""."""
    install = "pip install 'attention-composer[fla]'"
    try:
        installed = version("fla-core")
    except PackageNotFoundError:
        return f"fla-core is not installed: {install}"
    # earlier releases leave out the gates' nonlinearities without a word
    old = [int(each) for each in re.findall(r"\d+", installed)[:3]] < [0, 5, 1]
    return f"fla-core {installed} is older than 0.5.1: {install}" if old else ""


def _unfit(operation: GatedDelta, target: Target) -> str:
    """Return why fla's kernels cannot run an operation, or ""."""
    if operation.key_dim > LONGEST_KEY:
        return f"keys are longer than {LONGEST_KEY}"
    odd = operation.key_dim % 2 or operation.value_dim % 2
    return off_triton(operation, target) or ("the size of keys or values is odd" if odd else "")


def _by_fla(operation: GatedDelta) -> GatedDelta:
    return FlaDelta(operation.heads, operation.key_dim, operation.value_dim)


@dataclass(frozen=True)
class GatedDelta(Operation):
    """The gated delta rule (arXiv 2412.06464): (q, k, v, write, forget) -> y."""

    heads: int
    key_dim: int
    value_dim: int

    decoding = "blocks.gated_delta.decoding:mix_next"
    keeps_every_step = "keeps a state that each token changes"
    kernels = (
        Kernel(
            "fla_delta",
            "blocks.gated_delta.fla_kernels:mix",
            f"Triton kernels of flash-linear-attention, {CHUNK} tokens at a time",
            _unfit,
            specialize=_by_fla,
            # in fp32 their products would be TF32
            dtypes=("float16", "bfloat16"),
            check="blocks.gated_delta.check:check",
            missing=without_fla,
            traceable=False,
        ),
        Kernel(
            "delta_chunked",
            "blocks.gated_delta.chunked:mix",
            f"{CHUNK} tokens at a time, made again in the backward pass",
            traceable=False,
            by_autograd="blocks.gated_delta.by_autograd:mix",
        ),
        Kernel("delta_plain", "blocks.gated_delta.reference:mix_plain", "reference: one token after another"),
    )

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        keys, values, gate = (self.heads, self.key_dim), (self.heads, self.value_dim), (self.heads,)
        expect(self, inputs, keys, keys, values, gate, gate)
        return (TensorType(values),)

    def weight_shapes(self) -> tuple[Shape, ...]:
        """Return [heads] for the logarithm of the decay rate, and [heads] for the shift of its gate."""
        return (self.heads,), (self.heads,)

    def flops(self, at: CostContext) -> float:
        """Three products of key_dim x value_dim per token, and three with the tokens of its chunk."""
        pairs, state = self._pairs(at), self.key_dim * self.value_dim
        return 2 * self.heads * (pairs * (2 * self.key_dim + self.value_dim) + 3 * state)

    def backward_flops(self, at: CostContext) -> float:
        """The products that recompute the states, and the gradients of all products."""
        pairs, state = self._pairs(at), self.key_dim * self.value_dim
        own = pairs * (5 * self.key_dim + 3 * self.value_dim) + 7 * state
        # states are computed from all chunks but the last
        after = at.context - self._last(at)
        again = (after * CHUNK * self.key_dim + 2 * after * state) / at.context
        return 2 * self.heads * (own + again)

    def _pairs(self, at: CostContext) -> float:
        """Return the size of a token's chunk, averaged over tokens."""
        return self._mean(at, 2)

    def _mean(self, at: CostContext, power: int) -> float:
        """Return the sum over chunks of a power of their sizes, per token."""
        last = self._last(at)
        total: float = (at.context - last) * CHUNK ** (power - 1) + last**power
        return total / at.context

    def _last(self, at: CostContext) -> int:
        """Return the size of the last chunk."""
        return (at.context - 1) % CHUNK + 1

    def saved(self, at: CostContext) -> SavedTensors:
        """Save only the inputs."""
        return SavedTensors(inputs=(0, 1, 2, 3, 4))

    def workspace(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """Forward, a state and the intermediates of one chunk; backward, also the state before each chunk."""
        chunk, chunks = smallest(CHUNK, at.context), -(-at.context // CHUNK)
        keys, values, state = chunk * self.key_dim, chunk * self.value_dim, self.key_dim * self.value_dim
        solved = keys + 2 * values + 3 * chunk * chunk + 6 * chunk
        read = largest(chunk * chunk + keys + 2 * values, keys + values + 2 * state)
        forward = solved + state + keys + chunk + read
        backward = solved + (chunks + 4) * state + 8 * keys + 4 * values + 4 * chunk * chunk + 5 * chunk
        share = 4 * self.heads / at.context
        of_inputs = flow.grad_inputs + share * backward
        return WorkspaceBytes(flow.outputs + share * forward, of_inputs, of_inputs, until_end=True)

    def sequence_cache(self, at: CostContext) -> int:
        """One fp32 state, averaged over the tokens of the context."""
        state = self.heads * self.key_dim * self.value_dim * 4 // at.compute_bytes
        return -(-state // at.context)


@dataclass(frozen=True)
class FlaDelta(GatedDelta):
    """`GatedDelta` with the costs of flash-linear-attention's kernels (fla-core 0.5.1 to 0.6)."""

    def flops(self, at: CostContext) -> float:
        """Also the writes of a chunk, split into two products; the triangular system is not counted."""
        pairs, state = self._pairs(at), self.key_dim * self.value_dim
        return 2 * self.heads * (pairs * (3 * self.key_dim + 2 * self.value_dim) + 3 * state)

    def backward_flops(self, at: CostContext) -> float:
        """Writes and states are computed again, then the gradients of all products."""
        pairs, state = self._pairs(at), self.key_dim * self.value_dim
        solved = 2 * self._mean(at, 3)
        return 2 * self.heads * (pairs * (9 * self.key_dim + 5 * self.value_dim) + solved + 8 * state)

    def saved(self, at: CostContext) -> SavedTensors:
        """Save values, normalized queries and keys with their norms, both gates, and the inverted systems.

        The gates are slices of a joint projection, and the kernels save copies of them.
        """
        narrow = 2 * self.key_dim + CHUNK + 2
        return SavedTensors(inputs=(2,), extra=self.heads * (narrow * at.compute_bytes + 4 * 4))

    def workspace(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """Forward, the split writes and the states; backward, also the gradients of all of them."""
        states = -(-at.context // CHUNK) * self.key_dim * self.value_dim / at.context
        narrow = self.heads * at.compute_bytes
        forward = narrow * (self.key_dim + 2 * self.value_dim + states)
        backward = narrow * (5 * self.key_dim + 4 * self.value_dim + 2 * states) + 3 * 4 * self.heads
        held = flow.outputs + self.saved(at).extra + forward
        return WorkspaceBytes(held, backward, backward, until_end=True)
