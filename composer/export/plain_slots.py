"""Depth attention and residual mixes in exported models: autograd instead of custom functions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

from blocks.depth_attention.operations import Attend, WriteKV
from blocks.depth_attention.windowed import WindowedAttend
from blocks.ir.decoding import LOCAL
from blocks.ir.graph import Choice, Graph, Node
from blocks.ir.kernel import Kernel
from blocks.ir.operation import Operation
from blocks.ir.walk import graphs, map_nodes, operations
from blocks.kernels.slots import (
    DepthCache,
    DepthKVCache,
    SlotRead,
    SlotWrite,
    WriteExtraSlot,
    WriteSlot,
)
from blocks.sequence_attention.slots.first import AttendFirst, KeepFirst
from blocks.sequence_attention.slots.joint import JointAttend
from blocks.sequence_attention.slots.steps import StepsAttend
from blocks.wiring.residual.mix.operations import AttendValues, SumValues, ValueCache, WriteValue
from blocks.wiring.residual.mix.relu_operations import RectifyValues
from blocks.wiring.residual.mix.token_operations import NormLatest, SumByToken

_DEPTH = "blocks.depth_attention.by_autograd"
_MIX = "blocks.wiring.residual.mix.by_autograd"
_ATTENTION: dict[type[Operation], str] = {
    DepthKVCache: f"{_DEPTH}:slots",
    WriteKV: f"{_DEPTH}:append",
    Attend: f"{_DEPTH}:attend",
    WindowedAttend: f"{_DEPTH}:attend_windowed",
}
_MIXES: dict[type[Operation], str] = {
    ValueCache: f"{_MIX}:values",
    WriteValue: f"{_MIX}:write",
    AttendValues: f"{_MIX}:attend",
    SumValues: f"{_MIX}:weigh",
    RectifyValues: f"{_MIX}:rectify",
    NormLatest: f"{_MIX}:norm_latest",
    SumByToken: f"{_MIX}:weigh_by_token",
}
_OVER_TOKENS = {AttendFirst, JointAttend, KeepFirst, StepsAttend, WriteExtraSlot, WriteSlot}
"""What attention to tokens does with slots of keys and values; it keeps its own functions."""


@dataclass(frozen=True)
class LocalDepthCache(DepthKVCache):
    """Slots that depth attention alone reads, so that nothing of earlier tokens is in them."""

    decoding = LOCAL


def with_plain_slots(graph: Graph) -> Graph:
    """Return a compiled graph with gradients by autograd where no other operation uses the same slots."""
    users = {type(each) for each in _users(graph)}
    others = users - {*_ATTENTION, *_MIXES}
    # operations of another package may use the slots of either
    groups = [] if others - _OVER_TOKENS else [_MIXES] if others else [_ATTENTION, _MIXES]
    plain = {kind: function for group in groups for kind, function in group.items() if kind in users}
    return map_nodes(graph, partial(_by_autograd, plain)) if plain else graph


def _users(graph: Graph) -> Iterator[Operation]:
    for body, _ in graphs(graph):
        for _, operation, _ in operations(body):
            if isinstance(operation, DepthCache | SlotRead | SlotWrite):
                yield operation


def _by_autograd(plain: dict[type[Operation], str], node: Node) -> Node:
    """Return the node with plain PyTorch as its kernel, if it has a function for it."""
    operation = node.op
    function = plain.get(type(operation))
    if function is None:
        return node
    if isinstance(operation, DepthKVCache):
        operation = LocalDepthCache(operation.kv_heads, operation.head_dim, operation.count)
    kernel = Kernel(function.partition(":")[2], function, "gradients by autograd")
    return replace(node, op=operation, choice=Choice(kernel, kernel.why))
