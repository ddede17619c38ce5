"""The activations of the feed-forward layer. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass

from blocks.ir.costs import CostContext, IOBytes, SavedTensors, WorkspaceBytes
from blocks.ir.kernel import Kernel
from blocks.primitives.activations import Gelu, SwiGLU

_REFERENCE = "blocks.feed_forward.reference"


@dataclass(frozen=True)
class GeluTanh(Gelu):
    """The tanh approximation of GELU (arXiv 1606.08415): (x) -> y."""

    kernels = (Kernel("gelu_tanh", f"{_REFERENCE}:gelu_tanh", "elementwise"),)


@dataclass(frozen=True)
class GeGLU(SwiGLU):
    """gelu(gate) * up: (gate, up) -> y."""

    kernels = (Kernel("geglu", f"{_REFERENCE}:geglu", "elementwise"),)


@dataclass(frozen=True)
class Relu(Gelu):
    """max(x, 0): (x) -> y."""

    kernels = (Kernel("relu", f"{_REFERENCE}:relu", "elementwise"),)

    def saved(self, at: CostContext) -> SavedTensors:
        """Save the output."""
        return SavedTensors(outputs=(0,))


@dataclass(frozen=True)
class SquaredRelu(Gelu):
    """max(x, 0) ** 2 (arXiv 2109.08668): (x) -> y."""

    kernels = (Kernel("relu2", f"{_REFERENCE}:relu2", "elementwise"),)

    def saved(self, at: CostContext) -> SavedTensors:
        """Save max(x, 0)."""
        return SavedTensors(extra=at.compute_bytes * self.hidden)

    def workspace(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """Backward, the gradient, a power of the input and twice that power exist at the same time."""
        backward = 3 * flow.grad_inputs
        return super().workspace(at, flow)._replace(backward=backward, weights=backward)


ACTIVATIONS = {"gelu": Gelu, "gelu_tanh": GeluTanh, "relu": Relu, "relu2": SquaredRelu}
"""Activations without a gate, by their names in specs."""
GATED = {"swiglu": SwiGLU, "geglu": GeGLU}
"""Activations with a gate, by their names in specs."""
