"""Emit a graph as readable torch.fx code, one call for each operation.

The code takes the graph's inputs, the indices of the loops around it, and the prepared weights; an inner
stage comes as an object whose `run` is called. Nothing is traced: nodes are made one by one, so autograd
functions stay whole. Operations that are marked to be recomputed, and those that read them, are called
through `composer.module.emission.recompute`.
"""

from __future__ import annotations

import operator
import re
from bisect import bisect_left, bisect_right
from importlib import import_module
from typing import Any

import torch
from torch import fx

from blocks.ir.costs import CostContext
from blocks.ir.graph import Graph, Loop, Node, fresh
from blocks.ir.operation import LoopIndex, Value
from blocks.ir.walk import Place, operations
from blocks.primitives.operations import Input, Project
from composer.graph.passes.outline import Part
from composer.module.emission.recompute import Reading, Recomputed, plain
from composer.module.emission.regions import COMPILED, TRACEABLE

NODE = "node"
"""The key under which the metadata of an fx call name the node of our graph."""
ITEMS = "items"
"""The key of the number of values that an fx call returns."""


def resolve(path: str) -> Any:
    """Import `package.module:name`."""
    module, name = path.split(":")
    return getattr(import_module(module), name)


def emit(
    graph: Graph, place: Place, outputs: list[Value], name: str, signature: Graph | None = None
) -> fx.GraphModule:
    """Return the code that computes `outputs`; its parameters are inputs, loop indices, weights, in order.

    Weights come node by node as `composer.module.emission.lookup.gather` returns them. The parameters are
    those of the graph `signature` where the code runs a part of its nodes only.
    """
    emitter = _Emitter(graph, place, signature or graph)
    code = emitter.emit(outputs)
    return fx.GraphModule(emitter.root, code, name)


class _Emitter:
    def __init__(self, graph: Graph, place: Place, signature: Graph) -> None:
        self.graph, self.place, self.signature = graph, place, signature
        self.code = fx.Graph()
        self.values: dict[Value, fx.Node] = {}
        self.indices: dict[str, fx.Node] = {}
        self.weights: dict[str, list[fx.Node]] = {}
        self.root = torch.nn.Module()
        self.callers: dict[tuple[Any, ...], str] = {}

    def emit(self, outputs: list[Value]) -> fx.Graph:
        for name in self.graph.inputs:
            self.values[Value(name)] = self._parameter(readable(name))
        for _, index in self.place.loops:
            self.indices[index] = self._parameter(index)
        for node, operation, data in operations(self.signature):
            self.weights[node] = [self._parameter(name) for name in _parameters(node, operation, data)]
        for node, operation, data in operations(self.graph):
            if isinstance(operation, Loop | Part):
                self._run(node, "run" if isinstance(operation, Loop) else "__call__", data)
            elif not isinstance(operation, Input):
                self._call(node, operation, data)
        results = tuple(self._value(value) for value in outputs)
        self.code.output(results[0] if len(results) == 1 else results)
        self.code.eliminate_dead_code(_is_impure)
        return self.code

    def _parameter(self, name: str) -> fx.Node:
        return self.code.placeholder(fresh(name, {node.target for node in self.code.nodes}))

    def _call(self, node: str, operation: Any, data: Node) -> None:
        function = resolve(data.kernel.function)
        arguments = {key: self._argument(key, value) for key, value in operation.arguments().items()}
        given = (*(self._value(value) for value in data.inputs), *self.weights[node])
        caller = self._caller(function, data)
        if caller is None:
            made = self.code.call_function(function, given, arguments)
        else:
            made = self.code.call_module(caller, given, arguments)
        steps = any(self.graph.type_of(value).kind == "steps" for value in data.inputs)
        made.meta[TRACEABLE] = caller is None and not steps and _traceable(data)
        if caller is None and (compiled := data.kernel.compiled):
            made.meta[COMPILED] = resolve(compiled)
        self._bind(node, made, data)

    def _caller(self, function: Any, data: Node) -> str | None:
        """Return the name of the module that calls a recomputed function, or one that reads its outputs."""
        if data.recompute:
            inputs, weights = len(data.inputs), self.graph.weights
            counters = [n for n, name in enumerate(data.weights, inputs) if not weights[name].saved]
            return self._called("recomputed", Recomputed, function, self._inside(data), inputs, *counters)
        if any(self._recomputed(value) for value in data.inputs):
            return self._called("reading", Reading, function)
        return None

    def _called(self, prefix: str, kind: type[torch.nn.Module], function: Any, *settings: int) -> str:
        key = (kind, function, *settings)
        if key not in self.callers:
            self.callers[key] = fresh(f"{prefix}_{function.__name__}", self.root._modules)
            self.root.add_module(self.callers[key], kind(function, *settings))
        return self.callers[key]

    def _inside(self, node: Node) -> bool:
        """Return whether an operation saves tensors of its own: intermediates, outputs or casts of inputs."""
        at = CostContext(1, self.place.trips)
        saved = node.saved(at)
        return bool(saved.extra or saved.outputs or (saved.inputs and node.op.works_in(at) != "any"))

    def _recomputed(self, value: Value) -> bool:
        return bool(self.graph.node(value.node).recompute)

    def _run(self, node: str, method: str, data: Node) -> None:
        inputs = [self._tensor(value) for value in data.inputs]
        stage = self.weights[node][0]
        self._bind(node, self.code.call_method(method, (stage, *inputs, *self.indices.values())), data)

    def _bind(self, node: str, made: fx.Node, data: Node) -> None:
        self.values[Value(node)] = made
        made.meta[NODE] = node
        made.meta[ITEMS] = len(data.types)
        joined = len(data.types) > 1 and isinstance(data.op, Project)
        # names of the graph are more readable than those of the functions
        made._rename(f"{readable(node)}_and_more" if joined else readable(node))

    def _value(self, value: Value) -> fx.Node:
        whole = self.values[Value(value.node)]
        if whole.meta.get(ITEMS, 1) == 1:
            return whole
        key = Value(value.node, -1 - value.output)
        if key not in self.values:
            name = readable(self._part(value))
            # unpacked at once, since the tuple keeps all its items alive
            with self.code.inserting_after(whole):
                self.values[key] = self._named(name, operator.getitem, (whole, value.output))
        return self.values[key]

    def _tensor(self, value: Value) -> fx.Node:
        """Return a value as a plain tensor for a stage or a part, which keep references to it."""
        node = self._value(value)
        return self.code.call_function(plain, (node,)) if self._recomputed(value) else node

    def _part(self, value: Value) -> str:
        """Name one of several outputs: of a merged projection by its weight, otherwise by number."""
        data = self.graph.node(value.node)
        names: tuple[str, ...] = data.weights
        return names[value.output] if isinstance(data.op, Project) else f"{value.node}_{value.output}"

    def _argument(self, key: str, argument: Any) -> Any:
        if not isinstance(argument, LoopIndex):
            return argument
        total: Any = argument.base
        for index, stride in argument.strides:
            node: Any = self.indices[index]
            term = node if stride == 1 else self._named(key, operator.mul, (node, stride))
            total = self._named(key, operator.add, (term, total)) if total != 0 else term
        for count in argument.counts:
            count_of = bisect_right if count.inclusive else bisect_left
            steps = count.steps.among(self.place.trips[count.loop])
            term = self._named(key, count_of, (steps, self.indices[count.loop]))
            term = self._named(key, operator.mul, (term, count.stride)) if count.stride != 1 else term
            total = self._named(key, operator.add, (term, total)) if total != 0 else term
        return total

    def _named(self, name: str, function: Any, arguments: tuple[Any, ...]) -> fx.Node:
        made = self.code.call_function(function, arguments)
        made._rename(name)
        return made


def _parameters(node: str, operation: Any, data: Node) -> list[str]:
    """Return the names of the code's parameters for a node's weights."""
    if isinstance(operation, Loop | Part):
        return [f"{readable(node)}_weights"]
    if isinstance(operation, Input) or not data.weights:
        return []
    prepared = data.kernel.prepared
    if prepared == len(data.weights):
        return [f"{readable(name)}_weight" for name in data.weights]
    if prepared and isinstance(operation, Project):
        # all weights are concatenated to one, and so are biases
        return [f"{readable(name)}_joined" for name in data.weights[:: len(data.weights) // prepared]]
    if prepared == 1:
        return [f"{readable(data.weights[0])}_joined"]
    if prepared:
        return [f"{readable(node)}_prepared_{number}" for number in range(prepared)]
    return [f"{readable(name)}_weight" for name in data.weights]


def readable(name: str) -> str:
    """Turn `0.seq.query` into `seq_query`: positions are kept only where names are ambiguous without."""
    parts = re.sub(r"[^\w.]", "_", name).split(".")
    words = [part for part in parts if not part.isdigit()]
    positions = [part for part in parts if part.isdigit()] if len(words) < 2 else []
    return "_".join([*(words or ["stage"]), *positions])


def _traceable(data: Node) -> bool:
    operation, kernel = data.op, data.kernel
    indexed = any(isinstance(each, LoopIndex) for each in operation.arguments().values())
    return kernel.traceable and operation.recomputable and not indexed


def _is_impure(node: fx.Node) -> bool:
    # nodes have no hidden effects: slot writes are ordered by tokens, loads by their weights
    return node.op in ("placeholder", "output")
