"""The part of the builder without loops: operations, norms and projections with weights. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from typing import Literal, NamedTuple, Self

from blocks.base.sublayer import SublayerPlace, View
from blocks.ir.graph import Graph, Node, fresh
from blocks.ir.operation import ZEROS, Init, LoopIndex, Operation, Value, Weight
from blocks.ir.steps import Steps
from blocks.ir.tensor_type import Shape, TensorType
from blocks.primitives.operations import Input, LayerNorm, Norm, Project

NormType = Literal["rms", "layer"]


class StepWeights(NamedTuple):
    """Weights per step of a tied stage.

    Attributes:
        norms: whether each step has its own norm gains.
        rank: the rank of the LoRA of each step; 0 for none.
        steps: the number of steps.
        step: the current step.
    """

    norms: bool
    rank: int
    steps: int
    step: LoopIndex


class Operations:
    """Adds operations to one graph, for one use of a block at a time.

    Attributes:
        width: d_model, the width of the residual stream.
        norm_type: whether norms are RMSNorms or LayerNorms.
        bias: whether projections have biases, and LayerNorms shifts.
        micro_batch_tokens: the tokens of a micro-batch, which share costs that each execution has once.
        prefix: the place of use with a trailing dot, the prefix of names of operations and weights.
        block: the name of the block being lowered, which identifies its depth cache and its costs.
        sublayer: the place, in its step, of the sublayer that is being added.
        places: the indices, in the flattened batch, of the tokens that operations run on; None for all.
        first_kv: whether attention reads the keys and values of the first step at all steps.
        writes_residual: whether projections marked `writes_residual` start at the smaller scale; False
            if a norm follows them.
    """

    def __init__(self, width: int, norm_type: NormType = "rms", bias: bool = False) -> None:
        self.width, self.norm_type, self.bias = width, norm_type, bias
        self.micro_batch_tokens = 1
        self.graph = Graph()
        self._name = self._path = ""  # of this loop: its node in the graph around it, its path in the model
        self._places: set[str] = set()  # full names of all nodes of the model
        self.prefix = ""
        self.block = ""
        self.writes_residual = True
        # inside `norm_scores`: the prefix of its norms, and the existing norms by the values they read
        self._score_norms: tuple[str, dict[Value, Value]] | None = None
        self._active: Steps | None = None
        self.places: Value | None = None
        self.first_kv = False
        self.sublayer = SublayerPlace()
        self._views: dict[View, Value] = {}
        self._step_weights: StepWeights | None = None
        self._of_step: dict[str, Value] = {}

    @property
    def at_all_steps(self) -> bool:
        """Whether operations added here run at all steps of their stage."""
        return self._active is None

    @property
    def depth_cache(self) -> str:
        """The name of the depth cache of operations added here: one per place of use with `first_kv`."""
        return self.prefix.rstrip(".") if self.first_kv else self.block

    @contextmanager
    def at(self, prefix: str, block: str = "", *, writes_residual: bool | None = None) -> Iterator[None]:
        """Add operations at another place of use within the context."""
        before = self.prefix, self.block, self.writes_residual
        self.prefix, self.block = prefix, block
        if writes_residual is not None:
            self.writes_residual = writes_residual
        yield
        self.prefix, self.block, self.writes_residual = before

    def op(self, name: str, operation: Operation, *inputs: Value, weights: Sequence[Weight] = ()) -> Value:
        """Add an operation called `<prefix><name>` and return its first output."""
        return self._put(name, operation, inputs, self._added(weights))

    def tied(
        self, name: str, operation: Operation, *inputs: Value, of: str, weights: Sequence[Weight] = ()
    ) -> Value:
        """Add an operation with the weights of the node `of` of this graph, followed by new `weights`."""
        return self._put(name, operation, inputs, (*self.graph.node(of).weights, *self._added(weights)))

    def _added(self, weights: Sequence[Weight]) -> tuple[str, ...]:
        """Add weights and return their names."""
        names = tuple(f"{self.prefix}{weight.role}" for weight in weights)
        for full, weight in zip(names, weights, strict=True):
            assert full not in self.graph.weights, f"two weights are called {full}"
            writes = weight.writes_residual and self.writes_residual
            self.graph.weights[full] = weight._replace(block=self.block, writes_residual=writes)
        return names

    def _put(
        self, name: str, operation: Operation, inputs: tuple[Value, ...], weights: tuple[str, ...]
    ) -> Value:
        node = self._free(f"{self.prefix}{name}")
        self.graph.put(node, Node(operation, inputs, weights, (self.block,), active=self._active))
        return Value(node)

    def _stand_in(self, outer: Operations, name: str) -> None:
        """Make this the body of the loop `name` in the graph of `outer`."""
        self._name, self._path, self._places = name, f"{outer._path}{name}.", outer._places

    def _free(self, name: str) -> str:
        """Return `name`, with a number if another node of the model has the same full name."""
        place = fresh(f"{self._path}{name}", self._places)
        self._places.add(place)
        return place.removeprefix(self._path)

    def input(self, name: str, type: TensorType) -> Value:
        """Add an input of the graph."""
        value = Value(self._free(name))
        self.graph.put(value.node, Node(Input(type)))
        self.graph.inputs.append(value.node)
        return value

    def norm(
        self, x: Value, role: str, shape: Shape, start: float = 1.0, *, writes_residual: bool = False
    ) -> Value:
        """Add a norm of the model's type over the last dimension of `shape`, with the initial gain `start`.

        With `writes_residual` the initial gain is scaled down by the depth of the model.
        """
        operation = self._norm(shape)
        gains, *biases = operation.weight_shapes()
        start_as = Init("constant", start)
        gain = Weight(role, gains, start_as, decay=False, writes_residual=writes_residual)
        shifts = [Weight(f"{role}_bias", size, ZEROS, decay=False) for size in biases]
        return self.op(role, operation, x, weights=[gain, *shifts])

    def _norm(self, shape: Shape) -> Operation:
        own, rms = self._step_weights, self.norm_type == "rms"
        if own is None or not own.norms:
            return Norm(shape) if rms else LayerNorm(shape, self.bias)
        from blocks.primitives.step_operations import LayerNormStep, NormStep

        if rms:
            return NormStep(shape, own.steps, own.step)
        return LayerNormStep(shape, self.bias, own.steps, own.step)

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
        """Add a projection of `x` [fan_in] to `shape`.

        Args:
            x: the input.
            role: the name of the operation and its weight [elements of shape, fan_in].
            shape: the shape of the output.
            fan_in: elements of the input. Default: the model width.
            init: the initial weight. Default: normal with standard deviation fan_in ** -0.5.
            writes_residual: scale the initial weight down by the depth of the model.
            bias: whether there is a bias, initialized to 0. Default: as the model's `bias`.
        """
        fan_in = fan_in or self.width
        with_bias = self.bias if bias is None else bias
        init = init or Init("normal", fan_in**-0.5)
        size = prod(shape)
        weights = [Weight(role, (size, fan_in), init, writes_residual=writes_residual)]
        biases = [Weight(f"{role}_bias", (size,), ZEROS, decay=False)] if with_bias else []
        own = self._step_weights
        if own is None or not own.rank:
            return self.op(role, Project(fan_in, (shape,), with_bias), x, weights=weights + biases)
        from blocks.primitives.step_operations import ProjectAdapted

        operation = ProjectAdapted(
            fan_in, shape, with_bias, own.rank, own.steps, own.step, self.micro_batch_tokens
        )
        _, down, up, *_ = operation.weight_shapes()
        start, grid = Init("normal", fan_in**-0.5), (own.steps, 1)
        weights.append(Weight(f"{role}_lora_a", down, start, grid=grid))
        weights.append(Weight(f"{role}_lora_b", up, ZEROS, grid=grid))
        return self.op(role, operation, x, weights=weights + biases)

    @contextmanager
    def step_weights(self, own: StepWeights | None) -> Iterator[None]:
        """Give norms and projections added in the context weights per step; None for shared weights."""
        before, self._step_weights = self._step_weights, own
        yield
        self._step_weights = before

    def of_step(self, name: str, make: Callable[[Self], Value]) -> Value:
        """Return a value computed once per step, by `make(self)` with an empty prefix."""
        if name not in self._of_step:
            active, self._active = self._active, None
            with self.at(""):
                self._of_step[name] = make(self)
            self._active = active
        return self._of_step[name]

    @contextmanager
    def views(self, views: Mapping[View, Value]) -> Iterator[None]:
        """Give blocks added in the context views [width] that differ from their input."""
        before, self._views = self._views, {**views}
        yield
        self._views = before

    def view(self, name: View, x: Value) -> Value:
        """Return a view of a block's input `x` [width]; `x` itself by default."""
        return self._views.get(name, x)

    def norm_input(self, x: Value) -> Value:
        """Norm the input `x` [width] of a block, and each view that differs from it."""
        shape = (self.width,)
        self._views = {name: self.norm(each, f"norm_{name}", shape) for name, each in self._views.items()}
        return self.norm(x, "norm", shape)

    @contextmanager
    def norm_scores(self) -> Iterator[None]:
        """Let `score_input` return normed inputs to blocks added in the context."""
        before, self._score_norms = self._score_norms, (self.prefix, {})
        yield
        self._score_norms = before

    def score_input(self, x: Value) -> Value:
        """Return the input of projections that feed a softmax or sigmoid: queries, keys and routers.

        It is `x` [width] itself, or within `norm_scores` its norm, which all readers of `x` share.
        """
        if self._score_norms is None:
            return x
        prefix, norms = self._score_norms
        if x not in norms:
            with self.at(prefix):
                norms[x] = self.norm(x, f"norm_{len(norms)}" if norms else "norm", (self.width,))
        return norms[x]
