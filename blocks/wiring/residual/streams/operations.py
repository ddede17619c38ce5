"""The operations of residual streams. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from blocks.ir.costs import CostContext, IOBytes, SavedTensors, SavesNothing, WorkspaceBytes
from blocks.ir.decoding import LOCAL
from blocks.ir.kernel import Kernel
from blocks.ir.numbers import largest
from blocks.ir.operation import Operation, expect
from blocks.ir.tensor_type import Shape, TensorType

if TYPE_CHECKING:
    from blocks.wiring.residual.streams.config import Constraint

ITERATIONS = 20
"""The number of Sinkhorn iterations, as in mHC (arXiv 2512.24880)."""

_REFERENCE = "blocks.wiring.residual.streams.reference"
_BY_AUTOGRAD = "blocks.wiring.residual.streams.by_autograd"


@dataclass(frozen=True)
class OpenStreams(SavesNothing, Operation):
    """Copy a value to all streams: (x) -> h. With `apart`, streams are the outermost dimension in memory."""

    width: int
    streams: int
    apart: bool

    passes_on = 0
    decoding = LOCAL
    kernels = (Kernel("open_streams", f"{_REFERENCE}:open_streams", "copied"),)

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return [streams, width]."""
        expect(self, inputs, (self.width,))
        return (TensorType((self.streams, self.width), inputs[0].element),)

    def arguments(self) -> dict[str, Any]:
        return {"streams": self.streams, "apart": self.apart}


@dataclass(frozen=True)
class CloseStreams(SavesNothing, Operation):
    """The mean of the streams: (h) -> x. With `apart`, streams are the outermost dimension in memory."""

    width: int
    streams: int
    apart: bool

    passes_on = 0
    decoding = LOCAL
    kernels = (Kernel("close_streams", f"{_REFERENCE}:close_streams", "one reduction"),)

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        expect(self, inputs, (self.streams, self.width))
        return (TensorType((self.width,), inputs[0].element),)

    def arguments(self) -> dict[str, Any]:
        return {"apart": self.apart}


@dataclass(frozen=True)
class StreamMaps(Operation):
    """The factors per token by which each stream is read, written and mixed: (h) -> maps."""

    width: int
    streams: int
    constraint: Constraint

    decoding = LOCAL

    @property
    def kernels(self) -> tuple[Kernel, ...]:  # type: ignore[override]
        """One product with the streams, divided by their norm afterwards."""
        name = "maps_free" if self.constraint == "none" else f"maps_{self.constraint}"
        why = "not fused: one product, divided by the norm behind it"
        return (
            Kernel(
                name,
                f"{_REFERENCE}:{name}",
                why,
                prepare=f"{_REFERENCE}:pack",
                prepared=3,
                by_autograd=f"{_BY_AUTOGRAD}:{name}",
            ),
        )

    @property
    def columns(self) -> int:
        """The number of factors per stream: reading, writing, and one per target."""
        return 3 if self.constraint == "diagonal" else 2 + self.streams

    @property
    def elements(self) -> int:
        """The number of factors per token."""
        return self.streams * self.columns

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return [streams, columns]."""
        expect(self, inputs, (self.streams, self.width))
        return (TensorType((self.streams, self.columns), inputs[0].element),)

    def weight_shapes(self) -> tuple[Shape, ...]:
        """Return the shapes of the projection, the scales, and the static parts."""
        n = self.streams
        projection = (
            (self.columns, self.width) if self.constraint == "none" else (self.elements, n * self.width)
        )
        return (projection, (3,), (n,), (n,), mix_shape(n, self.constraint))

    def flops(self, at: CostContext) -> float:
        """A row of the projection reads its own stream, or all streams if maps are constrained."""
        reads = self.width if self.constraint == "none" else self.streams * self.width
        return 2 * self.elements * reads

    def saved(self, at: CostContext) -> SavedTensors:
        """Save the streams, their norms, the projection and its activation."""
        size, n = at.stream_bytes, self.streams
        kept = {
            "none": size * (2 * self.elements + n),
            "diagonal": size * (2 * self.elements + 1),
            "doubly_stochastic": size * (self.elements + 1 + 2 * n) + 4 * n * n,
        }
        return SavedTensors(inputs=(0,), extra=kept[self.constraint])

    def workspace(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """Backward, the vectors of all Sinkhorn iterations are recomputed before gradients of streams."""
        n, maps = self.streams, at.stream_bytes * self.elements
        extra = self.saved(at).extra
        if self.constraint != "doubly_stochastic":
            return WorkspaceBytes(
                flow.outputs + extra + maps, flow.grad_inputs + 2 * maps, flow.grad_inputs + 2 * maps
            )
        matrix, vectors = 4 * n * n, 4 * n * 2 * ITERATIONS
        backward = largest(flow.grad_inputs + 2 * maps, vectors + 4 * matrix + 2 * maps)
        return WorkspaceBytes(
            flow.outputs + extra + vectors + 2 * matrix, backward, flow.grad_inputs + 2 * maps
        )


@dataclass(frozen=True)
class ReadStreams(Operation):
    """The sum of the streams, weighted by maps, (h, maps) -> x, or by a learned weight, (h) -> x."""

    width: int
    streams: int
    dynamic: bool
    constraint: Constraint

    decoding = LOCAL

    @property
    def kernels(self) -> tuple[Kernel, ...]:  # type: ignore[override]
        """A weighted sum; constrained static weights are computed once per forward pass."""
        if self.dynamic:
            return (
                Kernel(
                    "read_dynamic",
                    f"{_REFERENCE}:read_dynamic",
                    "not fused: weighted by each token's maps",
                    by_autograd=f"{_BY_AUTOGRAD}:read_dynamic",
                ),
            )
        prepare = "" if self.constraint == "none" else f"{_REFERENCE}:share"
        name, why = "read_static", "not fused: weights times the streams as rows"
        return (_static(name, why, prepare, 1),)

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        expect(self, inputs, (self.streams, self.width), *maps_shape(self))
        return (TensorType((self.width,), inputs[0].element),)

    def weight_shapes(self) -> tuple[Shape, ...]:
        """Return [streams] if the weights are static."""
        return () if self.dynamic else ((self.streams,),)

    def saved(self, at: CostContext) -> SavedTensors:
        """Save the inputs."""
        return SavedTensors(inputs=(0, 1) if self.dynamic else (0,))

    def workspace(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """Forward, the output and the weighted streams that it sums; backward, the gradients of inputs."""
        streams = at.stream_bytes * self.streams * self.width if self.dynamic else 0
        return WorkspaceBytes(flow.outputs + streams, flow.grad_inputs, flow.grad_inputs)


@dataclass(frozen=True)
class WriteStreams(Operation):
    """Mix the streams and add an update to each: (h, y, maps) -> h, or with learned weights, (h, y) -> h."""

    width: int
    streams: int
    dynamic: bool
    constraint: Constraint

    passes_on = 0
    decoding = LOCAL

    @property
    def kernels(self) -> tuple[Kernel, ...]:  # type: ignore[override]
        """One product, or one factor per stream if the mix is diagonal; the update is added in place."""
        apart = self.constraint == "diagonal"
        why = (
            "not fused: streams scaled, the update added"
            if apart
            else "not fused: streams mixed by one product, the update added"
        )
        if self.dynamic:
            name = "write_dynamic"
            return (Kernel(name, f"{_REFERENCE}:{name}", why, by_autograd=f"{_BY_AUTOGRAD}:{name}"),)
        prepare = "" if self.constraint == "none" else f"{_REFERENCE}:static_{self.constraint}"
        return (_static("write_static", why, prepare, 2),)

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        expect(self, inputs, (self.streams, self.width), (self.width,), *maps_shape(self))
        return (inputs[0],)

    def weight_shapes(self) -> tuple[Shape, ...]:
        """Return [streams] for the writing weights and the shape of the mix if they are static."""
        return () if self.dynamic else ((self.streams,), mix_shape(self.streams, self.constraint))

    def arguments(self) -> dict[str, Any]:
        return {"diagonal": self.constraint == "diagonal"} if self.dynamic else {}

    def flops(self, at: CostContext) -> float:
        """The mix is one product per token; a diagonal mix is elementwise."""
        return 0 if self.constraint == "diagonal" else 2 * self.streams**2 * self.width

    def saved(self, at: CostContext) -> SavedTensors:
        """Save the inputs."""
        return SavedTensors(inputs=(0, 1, 2) if self.dynamic else (0, 1))

    def workspace(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """Forward, the mixed streams; backward, gradients of inputs or products to be summed, if larger."""
        columns = maps_shape(self)[0][1] + self.width if self.dynamic else 0
        sums = at.stream_bytes * (self.streams * columns + self.width)
        backward = largest(flow.grad_inputs, sums)
        return WorkspaceBytes(flow.outputs, backward, backward)


def _static(name: str, why: str, prepare: str, prepared: int) -> Kernel:
    """Return a kernel with learned weights, which `prepare` constrains."""
    functions = f"{_REFERENCE}:{name}", f"{_BY_AUTOGRAD}:{name}"
    count = prepared if prepare else 0
    return Kernel(name, functions[0], why, prepare=prepare, prepared=count, by_autograd=functions[1])


def mix_shape(streams: int, constraint: Constraint) -> Shape:
    """Return the shape of a static mix: [rows, columns], from column to row, or [streams] if diagonal."""
    return (streams,) if constraint == "diagonal" else (streams, streams)


def maps_shape(operation: ReadStreams | WriteStreams) -> tuple[Shape, ...]:
    """Return the shape of the maps that an operation reads, or nothing if its weights are static."""
    n = operation.streams
    return ((n, 3 if operation.constraint == "diagonal" else 2 + n),) if operation.dynamic else ()
