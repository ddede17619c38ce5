"""Kernels of exported models: plain PyTorch in place of custom autograd functions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from blocks.ir.decoding import LOCAL
from blocks.ir.graph import Choice, Graph, Node
from blocks.ir.kernel import Kernel
from blocks.ir.operation import Operation
from blocks.ir.walk import graphs, map_nodes, operations
from blocks.kernels.slots import DepthCache, DepthKVCache, SlotRead, SlotWrite


@dataclass(frozen=True)
class ListedDepthCache(DepthKVCache):
    """Slots that are a list of tensors."""

    decoding = "blocks.kernels.depth_slots:next_slots"


@dataclass(frozen=True)
class LocalDepthCache(DepthKVCache):
    """Such slots where nothing of earlier tokens is read from them, so that generation needs no scope."""

    decoding = LOCAL


def with_gradients_by_autograd(graph: Graph) -> Graph:
    """Return a compiled graph with the functions that leave gradients to autograd, where kernels have them.

    Where an operation that uses depth slots has none, such as one of another package, all others that use
    slots keep theirs.
    """
    users = [*_users(graph)]
    together = all(node.kernel.by_autograd for node in users)
    cache = LocalDepthCache if all(_is_local(node.op) for node in users) else ListedDepthCache

    def changed(node: Node) -> Node:
        if not node.choice or not node.kernel.by_autograd or (_uses_slots(node.op) and not together):
            return node
        operation, function = node.op, node.kernel.by_autograd
        if type(operation) is DepthKVCache:
            operation = cache(operation.kv_heads, operation.head_dim, operation.count)
        kernel = Kernel(function.partition(":")[2], function, "gradients by autograd")
        kernel = replace(kernel, prepare=node.kernel.prepare, prepared=node.kernel.prepared)
        return replace(node, op=operation, choice=Choice(kernel, kernel.why))

    return map_nodes(graph, changed)


def _users(graph: Graph) -> Iterator[Node]:
    for body, _ in graphs(graph):
        yield from (node for _, operation, node in operations(body) if _uses_slots(operation))


def _uses_slots(operation: Operation) -> bool:
    return isinstance(operation, DepthCache | SlotRead | SlotWrite)


def _is_local(operation: Operation) -> bool:
    """Tell whether an operation computes each token from the token's own slots, as it allocates them for."""
    return isinstance(operation, DepthCache) or operation.decoding == LOCAL
