"""Adding operations to a graph, and norms and projections with their weights. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal, NamedTuple, Self

from blocks.base.sublayer import SublayerPlace, View
from blocks.ir.graph import Graph, Node, fresh
from blocks.ir.operation import ZEROS, Init, LoopIndex, Operation, Value, Weight
from blocks.ir.steps import Steps
from blocks.ir.tensor_type import Shape, TensorType
from blocks.primitives.operations import Input, LayerNorm, Norm, Project, Sum

NormType = Literal["rms", "layer"]


class OwnWeights(NamedTuple):
    """What each step of a tied stage has of its own: gains of norms, products of a rank at projections."""

    norms: bool
    rank: int
    steps: int
    step: LoopIndex


class Operations:
    """Adds operations to one graph, at one place of use at a time: the part of `Builder` without loops.

    Attributes:
        width: d_model, the width of the residual stream.
        norm_type: whether norms are RMSNorms or LayerNorms.
        bias: whether projections have biases, and LayerNorms shifts.
        prefix: dotted place of use, put before the names of operations and weights.
        block: name of the block being lowered; its depth cache and its costs go by it.
        sublayer: the place of the sublayer that is being added, in a step.
        places: where the tokens are that operations here run on, in all of the batch; None for all tokens.
        first_kv: whether attention here reads keys and values of the first step at all steps.
        writes_residual: whether projections marked `writes_residual` do; not where a norm follows them.
    """

    def __init__(self, width: int, norm_type: NormType = "rms", bias: bool = False) -> None:
        self.width, self.norm_type, self.bias = width, norm_type, bias
        self.graph = Graph()
        self._name = self._path = ""  # of the loop whose body this is: in the graph around it, in the model
        self._places: set[str] = set()  # of all nodes of the model
        self.prefix = ""
        self.block = ""
        self.writes_residual = True
        # inside `norm_scores` the prefix of its norms, and those made so far by what they read
        self._score_norms: tuple[str, dict[Value, Value]] | None = None
        self._active: Steps | None = None
        self.places: Value | None = None
        self.first_kv = False
        self.sublayer = SublayerPlace()
        self._views: dict[View, Value] = {}
        self._own: OwnWeights | None = None
        self._of_step: dict[str, Value] = {}

    @property
    def at_all_steps(self) -> bool:
        """Whether operations added here run at all steps of their stage."""
        return self._active is None

    @property
    def depth_cache(self) -> str:
        """What the depth cache of operations here goes by: of each place of its own with keys of one step."""
        return self.prefix.rstrip(".") if self.first_kv else self.block

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
        return self._put(name, operation, inputs, self._added(weights))

    def tied(
        self, name: str, operation: Operation, *inputs: Value, of: str, weights: Sequence[Weight] = ()
    ) -> Value:
        """Add an operation that has the weights of the node `of` of this graph, then its own `weights`."""
        return self._put(name, operation, inputs, (*self.graph.node(of).weights, *self._added(weights)))

    def _added(self, weights: Sequence[Weight]) -> tuple[str, ...]:
        """Add weights at this place; return their names."""
        names = tuple(f"{self.prefix}{weight.role}" for weight in weights)
        for full, weight in zip(names, weights, strict=True):
            assert full not in self.graph.weights, f"two weights are called {full}"
            writes = weight.writes_residual and self.writes_residual
            self.graph.weights[full] = replace(weight, block=self.block, writes_residual=writes)
        return names

    def _put(
        self, name: str, operation: Operation, inputs: tuple[Value, ...], weights: tuple[str, ...]
    ) -> Value:
        node = self._free(f"{self.prefix}{name}")
        self.graph.put(node, Node(operation, inputs, weights, (self.block,), active=self._active))
        return Value(node)

    def _stand_in(self, outer: Operations, name: str) -> None:
        """Make this the body of the loop `name` of the graph that `outer` fills."""
        self._name, self._path, self._places = name, f"{outer._path}{name}.", outer._places

    def _free(self, name: str) -> str:
        """Return `name`, numbered if a node in or around a loop has its place: places tell nodes apart."""
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
        """Add the model's kind of norm over the last dimension of `shape`; its gain begins at `start`.

        The gain of one that writes into the residual stream begins smaller, by the depth of the model.
        """
        operation = self._norm(shape)
        gains, *biases = operation.weight_shapes()
        start_as = Init("constant", start)
        gain = Weight(role, gains, start_as, decay=False, writes_residual=writes_residual)
        shifts = [Weight(f"{role}_bias", size, ZEROS, decay=False) for size in biases]
        return self.op(role, operation, x, weights=[gain, *shifts])

    def _norm(self, shape: Shape) -> Operation:
        own, rms = self._own, self.norm_type == "rms"
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
        y = self.op(role, operation, x, weights=weights)
        return self._adapted(self._own, x, y, role, operation) if self._own and self._own.rank else y

    @contextmanager
    def own_weights(self, own: OwnWeights | None) -> Iterator[None]:
        """Let norms and projections added meanwhile have weights per step, or with None share all weights."""
        before, self._own = self._own, own
        yield
        self._own = before

    def of_step(self, name: str, make: Callable[[Self], Value]) -> Value:
        """Return a value that is made once per step, by `make(self)` at the step's own place."""
        if name not in self._of_step:
            active, self._active = self._active, None
            with self.at(""):
                self._of_step[name] = make(self)
            self._active = active
        return self._of_step[name]

    def _adapted(self, own: OwnWeights, x: Value, y: Value, role: str, product: Project) -> Value:
        """Add B A x to a projection y of x, with an A and a B for each step."""
        from blocks.primitives.step_operations import ProjectStep

        (shape,) = product.outputs
        down = ProjectStep(product.fan_in, (own.rank,), own.steps, own.step)
        up = ProjectStep(own.rank, shape, own.steps, own.step)
        start, grid = Init("normal", product.fan_in**-0.5), (own.steps, 1)
        a = Weight(f"{role}_lora_a", down.weight_shapes()[0], start, grid=grid)
        b = Weight(f"{role}_lora_b", up.weight_shapes()[0], ZEROS, grid=grid)
        inner = self.op(a.role, down, x, weights=[a])
        return self.op(f"{role}_adapted", Sum(shape), y, self.op(b.role, up, inner, weights=[b]))

    @contextmanager
    def views(self, views: Mapping[View, Value]) -> Iterator[None]:
        """Give blocks added meanwhile views [width] that differ from their input, until the context ends."""
        before, self._views = self._views, {**views}
        yield
        self._views = before

    def view(self, name: View, x: Value) -> Value:
        """Return a view of the input `x` [width] of a block: `x`, unless that differs."""
        return self._views.get(name, x)

    def norm_input(self, x: Value) -> Value:
        """Add the norm in front of a block, and one to each view that differs from its input `x` [width]."""
        shape = (self.width,)
        self._views = {name: self.norm(each, f"norm_{name}", shape) for name, each in self._views.items()}
        return self.norm(x, "norm", shape)

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
            with self.at(prefix):
                norms[x] = self.norm(x, f"norm_{len(norms)}" if norms else "norm", (self.width,))
        return norms[x]
