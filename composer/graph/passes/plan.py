"""The plan: every operation with its shape, weights and kernel, as text and as rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from blocks.ir.graph import Graph, Loop
from blocks.ir.tensor_type import Shape, TensorType
from blocks.ir.walk import operations
from blocks.primitives.operations import Input

HEADINGS = ("operation", "per token", "weights", "kernel", "why")


@dataclass(frozen=True)
class Line:
    """One line of a plan; `depth` is the number of enclosing loops, `why` is empty for a loop's head."""

    depth: int
    operation: str
    shape: str
    weights: str
    kernel: str
    why: str


def plan_lines(graph: Graph, depth: int = 0) -> Iterator[Line]:
    """Yield the plan of a compiled graph in the order it runs."""
    for name, operation, node in operations(graph):
        if isinstance(operation, Loop):
            sets = "one set of weights" if operation.tied else f"{operation.trips} sets of weights"
            yield Line(depth, f"{name}: {operation.describe()}", "", sets, "loop", "")
            yield from plan_lines(operation.body, depth + 1)
        elif not isinstance(operation, Input):
            assert node.choice is not None
            kernel, why = node.choice
            why = f"recomputed; {why}" if node.recompute else why
            why = f"at steps {node.active} only; {why}" if node.active else why
            yield Line(depth, name, types_text(node.types), _weights(graph, node.weights), kernel.name, why)


def plan_text(graph: Graph) -> str:
    """Return the plan of a compiled graph as plain text, one operation a line."""
    rows = [[*HEADINGS]]
    for line in plan_lines(graph):
        rows.append(["  " * line.depth + line.operation, line.shape, line.weights, line.kernel, line.why])
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    padded = ([*map(str.ljust, row, widths), row[4]] for row in rows)
    text = "".join(f"{'  '.join(row).rstrip()}\n" for row in padded)
    if graph.second is None:
        return text
    loops = [f"{name}: {op.describe()}" for name, op, _ in operations(graph.second) if isinstance(op, Loop)]
    return f"{text}then a second pass over the same batch, with the same weights: {', '.join(loops)}\n"


def types_text(types: Sequence[TensorType], times: str = "x", between: str = ", ") -> str:
    """Format types by their shapes, and values that are not per token by their kinds."""
    sized = ("token", "depth_cache")
    return between.join(shape_text(type.shape, times) if type.kind in sized else type.kind for type in types)


def shape_text(shape: Shape, times: str = "x") -> str:
    """Write a shape as `4x16`."""
    return times.join(map(str, shape)) or "scalar"


def _weights(graph: Graph, names: tuple[str, ...]) -> str:
    """Format weights with their shapes; joined weights, which differ only in rows, share one shape."""
    weights = [graph.weights[name] for name in names]
    roles = [weight.role.rpartition(".")[2] for weight in weights]
    if len(weights) > 1 and len({(weight.shape[1:], len(weight.shape)) for weight in weights}) == 1:
        rows = sum(weight.shape[0] for weight in weights)
        return f"{', '.join(roles)} {shape_text((rows, *weights[0].shape[1:]))}"
    return ", ".join(
        f"{role} {shape_text(weight.shape)}" for role, weight in zip(roles, weights, strict=True)
    )
