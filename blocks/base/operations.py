"""Adding operations to a graph, and norms and projections with their weights. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal

from blocks.ir.graph import Graph, Node, fresh
from blocks.ir.operation import ZEROS, Init, Operation, Value, Weight
from blocks.ir.steps import Steps
from blocks.ir.tensor_type import Shape, TensorType
from blocks.primitives.operations import Input, LayerNorm, Norm, Project

NormType = Literal["rms", "layer"]


class Operations:
    """Adds operations to one graph, at one place of use at a time: the part of `Builder` without loops.

    Attributes:
        width: d_model, the width of the residual stream.
        norm_type: whether norms are RMSNorms or LayerNorms.
        bias: whether projections have biases, and LayerNorms shifts.
        prefix: dotted place of use, put before the names of operations and weights.
        block: name of the block being lowered; its depth cache and its costs go by it.
        writes_residual: whether projections marked `writes_residual` do; not where a norm follows them.
    """

    def __init__(self, width: int, norm_type: NormType = "rms", bias: bool = False) -> None:
        self.width, self.norm_type, self.bias = width, norm_type, bias
        self.graph = Graph()
        self.prefix = ""
        self.block = ""
        self.writes_residual = True
        # inside `norm_scores` the prefix of its norms, and those made so far by what they read
        self._score_norms: tuple[str, dict[Value, Value]] | None = None
        self._active: Steps | None = None

    @contextmanager
    def at(self, prefix: str, block: str = "", *, writes_residual: bool | None = None) -> Iterator[None]:
        """Add operations at another place of use, until the context ends."""
        before = self.prefix, self.block, self.writes_residual
        self.prefix, self.block = prefix, block
        if writes_residual is not None:
            self.writes_residual = writes_residual
        yield
        self.prefix, self.block, self.writes_residual = before

    def op(self, name: str, operation: Operation, *inputs: Value, weights: Sequence[Weight] = ()) -> Value:
        """Add one operation under `<place>.<name>`; return its first output."""
        node = fresh(f"{self.prefix}{name}", self.graph)
        names = tuple(f"{self.prefix}{weight.role}" for weight in weights)
        for full, weight in zip(names, weights, strict=True):
            assert full not in self.graph.weights, f"two weights are called {full}"
            writes = weight.writes_residual and self.writes_residual
            self.graph.weights[full] = replace(weight, block=self.block, writes_residual=writes)
        self.graph.put(node, Node(operation, inputs, names, (self.block,), active=self._active))
        return Value(node)

    def tied(self, name: str, operation: Operation, *inputs: Value, of: str) -> Value:
        """Add an operation that has the weights of the node `of` of this graph; return its first output."""
        node = fresh(f"{self.prefix}{name}", self.graph)
        weights = self.graph.node(of).weights
        self.graph.put(node, Node(operation, inputs, weights, (self.block,), active=self._active))
        return Value(node)

    def input(self, name: str, type: TensorType) -> Value:
        """Add an input of the graph."""
        value = Value(fresh(name, self.graph))
        self.graph.put(value.node, Node(Input(type)))
        self.graph.inputs.append(value.node)
        return value

    def norm(
        self, x: Value, role: str, shape: Shape, start: float = 1.0, *, writes_residual: bool = False
    ) -> Value:
        """Add the model's kind of norm over the last dimension of `shape`; its gain begins at `start`.

        The gain of one that writes into the residual stream begins smaller, by the depth of the model.
        """
        start_as = Init("constant", start)
        gain = Weight(role, shape[-1:], start_as, decay=False, writes_residual=writes_residual)
        if self.norm_type == "rms":
            return self.op(role, Norm(shape), x, weights=[gain])
        shifts = [Weight(f"{role}_bias", shape[-1:], ZEROS, decay=False)] if self.bias else []
        return self.op(role, LayerNorm(shape, self.bias), x, weights=[gain, *shifts])

    def project(
        self,
        x: Value,
        role: str,
        shape: Shape,
        fan_in: int | None = None,
        *,
        init: Init | None = None,
        writes_residual: bool = False,
        bias: bool | None = None,
    ) -> Value:
        """Add a projection of `x` [fan_in, default the model width] to `shape`.

        The weight [elements of shape, fan_in] starts normal with standard deviation fan_in ** -0.5;
        one that writes into the residual stream is scaled down further, by the depth of the model.
        The bias, which starts at 0, is there if the model has biases, or as `bias` says.
        """
        fan_in = fan_in or self.width
        operation = Project(fan_in, (shape,), self.bias if bias is None else bias)
        init = init or Init("normal", fan_in**-0.5)
        weight, *biases = operation.weight_shapes()
        weights = [Weight(role, weight, init, writes_residual=writes_residual)]
        weights += [Weight(f"{role}_bias", size, ZEROS, decay=False) for size in biases]
        return self.op(role, operation, x, weights=weights)

    @contextmanager
    def norm_scores(self) -> Iterator[None]:
        """Let blocks added meanwhile read norms by `score_input`, until the context ends."""
        before, self._score_norms = self._score_norms, (self.prefix, {})
        yield
        self._score_norms = before

    def score_input(self, x: Value) -> Value:
        """Return the input `x` [width] of a block as maps into a softmax or sigmoid read it.

        It is `x` itself, or its norm where the wiring has norms on these paths alone. All that read one value
        share its norm.
        """
        if self._score_norms is None:
            return x
        prefix, norms = self._score_norms
        if x not in norms:
            with self.at(prefix, self.block):
                norms[x] = self.norm(x, f"norm_{len(norms)}" if norms else "norm", (self.width,))
        return norms[x]
