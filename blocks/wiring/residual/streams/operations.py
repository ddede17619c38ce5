"""The operations of residual streams. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from blocks.ir.costs import CostContext, IOBytes, SavedTensors, SavesNothing, WorkspaceBytes
from blocks.ir.decoding import LOCAL
from blocks.ir.kernel import Kernel, Target, with_fields
from blocks.ir.numbers import largest
from blocks.ir.operation import Operation, expect
from blocks.ir.tensor_type import Shape, TensorType
from blocks.kernels.gpu import off_triton
from blocks.wiring.residual.streams.tiles import MOST_STREAMS

if TYPE_CHECKING:
    from blocks.wiring.residual.streams.config import Constraint

ITERATIONS = 20
"""The number of Sinkhorn iterations, as in mHC (arXiv 2512.24880)."""

_REFERENCE = "blocks.wiring.residual.streams.reference"
_BY_AUTOGRAD = "blocks.wiring.residual.streams.by_autograd"
_FUSED = "blocks.wiring.residual.streams.fused"
_CHECK = "blocks.wiring.residual.streams.check"


def _unfit(operation: Any, target: Target) -> str:
    """Return why the Triton kernels cannot run an operation, or "" if they can."""
    more = operation.streams > MOST_STREAMS
    return off_triton(operation, target) or (f"more than {MOST_STREAMS} streams" if more else "")


def _by_triton(name: str, why: str) -> Kernel:
    """Return a Triton kernel without the function, which depends on the operation's fields."""
    return Kernel(
        f"triton_{name}",
        "",
        why,
        _unfit,
        specialize=with_fields(fused=True),
        check=f"{_CHECK}:check_{name}",
        traceable=False,
    )


def _kernels(own: Kernel, name: str, why: str, prepare: str = "", prepared: int = 0) -> tuple[Kernel, Kernel]:
    """Return the Triton kernel and the reference of a function; `prepare` changes learned weights."""
    plain = Kernel(
        name,
        f"{_REFERENCE}:{name}",
        why,
        prepare=prepare,
        prepared=prepared if prepare else 0,
        specialize=with_fields(fused=False),
        by_autograd=f"{_BY_AUTOGRAD}:{name}",
    )
    own = replace(own, function=f"{_FUSED}:{name}", by_autograd=plain.by_autograd)
    return replace(own, prepare=plain.prepare, prepared=plain.prepared), plain


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
    fused: bool = field(default=False, kw_only=True)

    decoding = LOCAL
    checked = (_by_triton("maps", "one product; the norm behind it and the rest by one kernel"),)

    @property
    def kernels(self) -> tuple[Kernel, ...]:  # type: ignore[override]
        """One product with the streams, divided by their norm afterwards."""
        why = "one product, divided by the norm behind it"
        return _kernels(self.checked[0], self.function, why, f"{_REFERENCE}:pack", 3)

    @property
    def function(self) -> str:
        """The name of the function that makes the maps."""
        return "maps_free" if self.constraint == "none" else f"maps_{self.constraint}"

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

    def traffic(self, at: CostContext, read: float, written: float) -> float:
        """With the kernel: the norm and the product read the streams, the rest the product and the norm."""
        if not self.fused:
            return read + written
        return 2 * read + 3 * written + 2 * at.stream_bytes * self._norms

    @property
    def _norms(self) -> int:
        return self.streams if self.constraint == "none" else 1

    def saved(self, at: CostContext) -> SavedTensors:
        """Save the streams, their norms, the projection and, without the kernel, its activation."""
        size, n = at.stream_bytes, self.streams
        if self.fused:
            return SavedTensors(inputs=(0,), extra=size * (self.elements + self._norms))
        kept = {
            "none": size * (2 * self.elements + n),
            "diagonal": size * (2 * self.elements + 1),
            "doubly_stochastic": size * (self.elements + 1 + 2 * n) + 4 * n * n,
        }
        return SavedTensors(inputs=(0,), extra=kept[self.constraint])

    def workspace(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """Backward, the vectors of all Sinkhorn iterations are recomputed before gradients of streams.

        With the kernel they stay in registers; there are gradients of the streams, projection and norms.
        """
        n, maps = self.streams, at.stream_bytes * self.elements
        extra = self.saved(at).extra
        if self.fused:
            backward = flow.grad_inputs + extra
            return WorkspaceBytes(flow.outputs + extra, backward, backward)
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
    fused: bool = field(default=False, kw_only=True)

    decoding = LOCAL
    checked = (_by_triton("read", "streams weighted and summed by one kernel, each read once"),)

    @property
    def kernels(self) -> tuple[Kernel, ...]:  # type: ignore[override]
        """A weighted sum; constrained static weights are computed once per forward pass."""
        if self.dynamic:
            return _kernels(self.checked[0], "read_dynamic", "weighted by each token's maps")
        prepare = "" if self.constraint == "none" else f"{_REFERENCE}:share"
        return _kernels(self.checked[0], "read_static", "weights times the streams as rows", prepare, 1)

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
        """Forward, the output, and without the kernel weighted streams; backward, the gradients of inputs."""
        apart = self.dynamic and not self.fused
        streams = at.stream_bytes * self.streams * self.width if apart else 0
        return WorkspaceBytes(flow.outputs + streams, flow.grad_inputs, flow.grad_inputs)

    def absorb(self, position: int, producer: Operation, shared: bool) -> Operation | None:
        """Fuse the maps, so that one gradient of the streams results."""
        maps = type(producer) is StreamMaps and type(self) is ReadStreams and shared
        return MapAndRead(self.width, self.streams, self.constraint) if maps else None


@dataclass(frozen=True)
class MapAndRead(StreamMaps):
    """The maps of the streams, and the sum of the streams weighted by them: (h, h) -> x, maps."""

    kernels = (
        replace(
            _by_triton("map_and_read", "maps by one product and a kernel, streams summed by another"),
            function=f"{_FUSED}:map_and_read",
            prepare=f"{_REFERENCE}:pack",
            prepared=3,
            unused_inputs=(1,),
        ),
        Kernel(
            "map_and_read",
            f"{_REFERENCE}:map_and_read",
            "one product, divided by the norm behind it; weighted by each token's maps",
            prepare=f"{_REFERENCE}:pack",
            prepared=3,
            unused_inputs=(1,),
            specialize=with_fields(fused=False),
        ),
    )

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return a value of tokens and the maps."""
        return (TensorType((self.width,), inputs[0].element), *super().types(inputs[:1]))

    def arguments(self) -> dict[str, Any]:
        return {"constraint": self.constraint}

    def traffic(self, at: CostContext, read: float, written: float) -> float:
        """The norm, the product and the sum read the streams; the rest reads the product and the norm."""
        maps = at.stream_bytes * self.elements
        return 3 * read + written + 3 * maps + 2 * at.stream_bytes * self._norms

    def saved(self, at: CostContext) -> SavedTensors:
        """Also save the maps."""
        return super().saved(at)._replace(outputs=(1,))

    def workspace(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """Backward, gradients of the streams, of the projection and of norms, and one sum for each stream."""
        extra, maps = self.saved(at).extra, at.stream_bytes * self.elements
        streams = at.stream_bytes * self.streams * self.width
        sums = at.stream_bytes * self.streams
        backward = streams + (extra + sums if self.fused else streams + 3 * maps)
        return WorkspaceBytes(flow.outputs + extra, backward, backward)


@dataclass(frozen=True)
class WriteStreams(Operation):
    """Mix the streams and add an update to each: (h, y, maps) -> h, or with learned weights, (h, y) -> h."""

    width: int
    streams: int
    dynamic: bool
    constraint: Constraint
    fused: bool = field(default=False, kw_only=True)

    passes_on = 0
    decoding = LOCAL
    checked = (_by_triton("write", "streams mixed and the update added by one kernel, each read once"),)

    @property
    def kernels(self) -> tuple[Kernel, ...]:  # type: ignore[override]
        """One product, or one factor per stream if the mix is diagonal; the update is added in place."""
        apart = self.constraint == "diagonal"
        how = "streams scaled" if apart else "streams mixed by one product"
        name, prepare = "write_static", f"{_REFERENCE}:static_{self.constraint}"
        if self.dynamic:
            name, prepare = "write_dynamic", ""
        elif self.constraint == "none":
            prepare = ""
        return _kernels(self.checked[0], name, f"{how}, the update added", prepare, 2)

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
        """Forward, the mixed streams; backward, gradients of inputs or products to be summed, if larger.

        The kernel sums in registers.
        """
        if self.fused:
            return super().workspace(at, flow)
        columns = maps_shape(self)[0][1] + self.width if self.dynamic else 0
        sums = at.stream_bytes * (self.streams * columns + self.width)
        backward = largest(flow.grad_inputs, sums)
        return WorkspaceBytes(flow.outputs, backward, backward)


def mix_shape(streams: int, constraint: Constraint) -> Shape:
    """Return the shape of a static mix: [rows, columns], from column to row, or [streams] if diagonal."""
    return (streams,) if constraint == "diagonal" else (streams, streams)


def maps_shape(operation: ReadStreams | WriteStreams) -> tuple[Shape, ...]:
    """Return the shape of the maps that an operation reads, or nothing if its weights are static."""
    n = operation.streams
    return ((n, 3 if operation.constraint == "diagonal" else 2 + n),) if operation.dynamic else ()
