"""Depth attention in exported models: gradients by autograd instead of custom functions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from blocks.depth_attention.operations import Attend, WriteKV
from blocks.depth_attention.windowed import WindowedAttend
from blocks.ir.decoding import LOCAL
from blocks.ir.graph import Choice, Graph, Loop
from blocks.ir.kernel import Kernel
from blocks.ir.operation import Operation
from blocks.ir.walk import graphs, operations
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
    return _rewritten(graph) if kinds and kinds <= {*_PLAIN} else graph


def _users(graph: Graph) -> Iterator[Operation]:
    for body, _ in graphs(graph):
        for _, operation, _ in operations(body):
            if isinstance(operation, DepthCache | SlotRead | SlotWrite):
                yield operation


def _rewritten(graph: Graph) -> Graph:
    made = graph.empty()
    for name, operation, node in operations(graph):
        if isinstance(operation, Loop):
            node = replace(node, op=replace(operation, body=_rewritten(operation.body)))
        elif function := _PLAIN.get(type(operation)):
            kernel = Kernel(function, f"{_FUNCTIONS}:{function}", "gradients by autograd")
            if isinstance(operation, DepthKVCache):
                node = replace(
                    node, op=LocalDepthCache(operation.kv_heads, operation.head_dim, operation.count)
                )
            node = replace(node, choice=Choice(kernel, kernel.why))
        made.put(name, node)
    return made
