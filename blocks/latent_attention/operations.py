"""The operation of latent attention. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from blocks.ir.costs import CostContext, IOBytes, SavedTensors, WorkspaceBytes
from blocks.ir.kernel import Kernel
from blocks.ir.operation import Operation, expect
from blocks.ir.tensor_type import Shape, TensorType
from blocks.primitives.fused_operations import with_onednn

_REFERENCE = "blocks.latent_attention.reference"
_SDPA = Kernel("latent_sdpa", f"{_REFERENCE}:attend", "keys and values made, then torch's fused attention")


@dataclass(frozen=True)
class LatentAttend(Operation):
    """Causal attention with keys and values projected from latent vectors (MLA, arXiv 2405.04434).

    (q, rope_key, latent) -> y. All heads share the key of their first `rope_dim` elements; the other elements
    have keys per head.
    """

    heads: int
    head_dim: int
    rope_dim: int
    latent: int

    decoding = "blocks.latent_attention.decoding:attend_next"
    decoding_of_some = "blocks.latent_attention.decoding:attend_chosen"
    kernels = (
        with_onednn(_SDPA),
        _SDPA,
        Kernel("latent_plain", f"{_REFERENCE}:attend_plain", "reference: scores, mask, softmax, sum"),
    )

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        y = (self.heads, self.head_dim)
        expect(self, inputs, y, (1, self.rope_dim), (self.latent,))
        return (TensorType(y),)

    def weight_shapes(self) -> tuple[Shape, ...]:
        """Return the shapes of the projections from latent vectors to keys and to values of all heads."""
        bare = self.head_dim - self.rope_dim
        return (self.heads * bare, self.latent), (self.heads * self.head_dim, self.latent)

    def flops(self, at: CostContext) -> float:
        """Both projections, and two dot products of head_dim per head and pair of tokens."""
        pairs = at.context if at.full_mask else (at.context + 1) / 2
        maps = 2 * self.latent * self.heads * (2 * self.head_dim - self.rope_dim)
        return maps + 4 * self.heads * self.head_dim * pairs

    def saved(self, at: CostContext) -> SavedTensors:
        """Save queries, latent vectors, keys, values, the output and one fp32 log-sum-exp per head."""
        made = 2 * self.heads * self.head_dim * at.compute_bytes
        return SavedTensors(inputs=(0, 2), outputs=(0,), extra=made + 4 * self.heads)

    def workspace(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """Backward, also the gradients of keys and values."""
        made = 2 * self.heads * self.head_dim * at.compute_bytes
        return super().workspace(at, flow)._replace(backward=flow.grad_inputs + made)

    def works_in(self, at: CostContext) -> Literal["any", "compute", "fp32"]:
        """Autocast casts the inputs of products."""
        return "compute"

    def sequence_cache(self, at: CostContext) -> int:
        """The latent vector and the shared rotated key."""
        return self.latent + self.rope_dim
