"""Depth attention in exported models: gradients by autograd instead of custom functions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from blocks.depth_attention.operations import Attend, WriteKV
from blocks.depth_attention.windowed import WindowedAttend
from blocks.ir.decoding import LOCAL
from blocks.ir.graph import Choice, Graph, Node
from blocks.ir.kernel import Kernel
from blocks.ir.operation import Operation
from blocks.ir.walk import graphs, map_nodes, operations
from blocks.kernels.slots import DepthCache, DepthKVCache, SlotRead, SlotWrite

_FUNCTIONS = "blocks.depth_attention.by_autograd"
_PLAIN: dict[type[Operation], str] = {
    DepthKVCache: "slots",
    WriteKV: "append",
    Attend: "attend",
    WindowedAttend: "attend_windowed",
}


@dataclass(frozen=True)
class LocalDepthCache(DepthKVCache):
    """Slots that depth attention alone reads, so that nothing of earlier tokens is in them."""

    decoding = LOCAL


def with_plain_slots(graph: Graph) -> Graph:
    """Return a compiled graph with depth attention by autograd, or the same one if others use its slots."""
    kinds = {type(each) for each in _users(graph)}
    return map_nodes(graph, _by_autograd) if kinds and kinds <= {*_PLAIN} else graph


def _users(graph: Graph) -> Iterator[Operation]:
    for body, _ in graphs(graph):
        for _, operation, _ in operations(body):
            if isinstance(operation, DepthCache | SlotRead | SlotWrite):
                yield operation


def _by_autograd(node: Node) -> Node:
    """Return the node with plain PyTorch as its kernel, if it is part of depth attention."""
    operation = node.op
    function = _PLAIN.get(type(operation))
    if function is None:
        return node
    if isinstance(operation, DepthKVCache):
        operation = LocalDepthCache(operation.kv_heads, operation.head_dim, operation.count)
    kernel = Kernel(function, f"{_FUNCTIONS}:{function}", "gradients by autograd")
    return replace(node, op=operation, choice=Choice(kernel, kernel.why))
