"""The builder that blocks and wiring options use to add operations to a graph.

The body of a loop is a separate graph, built by a child builder. Values that it reads from outside become
inputs (captured); values that pass from step to step are carried.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any

from blocks.base.loops import LoopResult, NextStage
from blocks.base.operations import NormType, Operations
from blocks.ir.graph import Loop
from blocks.ir.numbers import label
from blocks.ir.operation import ZEROS, LoopIndex, Operation, Value, Weight
from blocks.ir.steps import Steps
from blocks.ir.tensor_type import KEY, ORDER, Shape, TensorType
from blocks.kernels.slots import DepthKVCache, Reach
from blocks.primitives.operations import (
    AddStepBias,
    Rotate,
    RotateAt,
    RotatePart,
    RotateStep,
    SequenceTable,
    StepTable,
)

SCOPE_INPUT = "depth_input."
"""Part of the names of a block's operations on the input of its depth scope, outside the stage."""
_AUXILIARY = "auxiliary."
"""Prefix of the carried sums of auxiliary losses; no block can have such a name."""


class Builder(Operations):
    """Adds operations to one graph, for one use of a block at a time.

    Attributes:
        collected: the values that the last added loop collected under a name, by name.
        custom_start: whether the first step of this stage reads another state than the stage's input.
        carried: the values that this stage passes from step to step besides the state, by name.
        next: settings of the stages that are added in the current context.
        last_carried: the values that the last added stage carried, after its last step.
        document_start: the token that begins a document, if documents are kept apart.
        open_streams: the number of residual streams that sublayers read and write; 0 for a single stream.
        published: values that blocks of this step offer to later blocks, by block name.
    """

    def __init__(
        self,
        width: int,
        parent: Builder | None = None,
        loop: tuple[str, int, bool] | None = None,
        *,
        norm_type: NormType = "rms",
        bias: bool = False,
    ):
        """`loop` is (index name, trips, tied) of the stage whose body this builder builds."""
        super().__init__(width, norm_type, bias)
        if parent:
            self.micro_batch_tokens = parent.micro_batch_tokens
        self.document_start: int | None = parent.document_start if parent else None
        self.open_streams: int = parent.open_streams if parent else 0
        self._parent, self._loop = parent, loop
        self._collected: list[Value] = []
        self.published: dict[str, Any] = {}
        self._collected_names: dict[str, int] = {}
        self.collected: dict[str, Value] = {}
        self._captured: dict[Value, Value] = {}  # value of the parent's graph -> input here
        # of the model's graph; a list, since hashing an operation would pin traced numbers
        self._shared: list[tuple[Operation, Value]] = []
        self._slots: dict[str, Value] = {}  # depth caches whose scope is this loop, in the parent's graph
        self._depth_scopes: dict[str, Builder] = {}  # scopes of the depth caches that operations here use
        self._first_tokens: dict[str, Value] = {}  # order token before the first step, in the parent's graph
        self._carried: list[tuple[str, Value, Builder]] = []  # (block, order token input, scope)
        self._tokens: dict[str, Value] = {}  # the latest order token of each depth cache
        self._outer_x: Value | None = None  # the stage's input, in the parent's graph
        self._offered: dict[str, Value] = {}  # slots allocated for the next stage
        self._left: dict[str, Value] = {}  # final order tokens of depth caches of stages added here
        self.custom_start, self.next = False, NextStage()
        self.carried: dict[str, Value] = {}
        self.last_carried: dict[str, Value] = {}

    # steps

    @contextmanager
    def active(self, steps: Steps) -> Iterator[None]:
        """Add operations that run at some steps of this stage only; weights stay tied.

        At other steps their readers read the input named by `Operation.passthrough`. Layers of a stack that
        skip them have no weights for them.

        Raises:
            ValueError: none of the steps exists.
        """
        assert self._loop is not None, "steps exist only inside a stage"
        _, trips, _ = self._loop
        if not steps.among(trips):
            raise ValueError(f"expected some of the {trips} steps, got {steps}")
        before, self._active = self._active, steps
        try:
            yield
        finally:
            self._active = before

    # positions

    def rotate(self, x: Value, name: str, shape: Shape, table: SequenceTable) -> Value:
        """Rotate `x` by its token's position; if heads are longer than the table's rows, only their start."""
        angles, size = self.shared(f"rope_{label(table.head_dim)}", table), table.head_dim
        if self.places is None:
            return self.op(name, Rotate(shape) if size == shape[-1] else RotatePart(shape, size), x, angles)
        return self.op(name, RotateAt(shape, size), x, angles, self.places)

    def rotate_step(self, x: Value, name: str, shape: Shape, base: float) -> Value:
        """Rotate `x` by the current step's index within its depth scope."""
        table = self.shared(f"depth_rope_{label(shape[-1])}", StepTable(shape[-1], base))
        return self.op(name, RotateStep(shape, self.step_index()), x, table)

    def add_step_bias(self, x: Value, role: str) -> Value:
        """Add a learned vector [width] of the current step, initialized to zero, to `x`."""
        steps = self.step_count()
        weight = Weight(role, (steps, self.width), ZEROS, decay=False)
        return self.op(role, AddStepBias(self.width, steps, self.step_index()), x, weights=[weight])

    def step_index(self) -> LoopIndex:
        """Return the index of the current step, counted through the loops of its depth scope."""
        strides: list[tuple[str, int]] = []
        steps = 1
        for index, trips, _ in self._scope_loops():
            strides.insert(0, (index, steps))
            steps *= trips
        return LoopIndex(0, tuple(strides))

    def step_count(self) -> int:
        """Return the number of steps of the depth scope."""
        return prod(trips for _, trips, _ in self._scope_loops())

    # depth state

    def depth_slots(
        self,
        kv_heads: int,
        head_dim: int,
        write_input: Callable[[Builder, Value, Value, Value], Value] | None = None,
        reach: Reach = "recur",
    ) -> Value:
        """Return the slots that the uses of this block share within their depth scope.

        The scope is the innermost recurrent stage around the block, else the innermost stage; with the reach
        `stage` the outermost stage around it, with `model` all stages. `write_input` appends slots before
        the first step: called with the builder around the scope, the scope's input, the order token and the
        slots, it returns the next order token.
        """
        scope = self._depth_scopes[self.depth_cache] = self._scope(reach)
        # a stage is entered once per pass through the graph around it, and starts empty each time
        outside = scope._parent or scope
        if self.depth_cache not in scope._slots:
            with outside.at(outside.prefix, self.block):
                slots = outside.op(f"{self.block}.slots", DepthKVCache(kv_heads, head_dim), outside.tokens())
            scope._slots[self.depth_cache], token = slots, Value(slots.node, 1)
            if write_input is not None:
                path = f"{scope._name}." if scope._name else ""
                with outside.at(f"{path}{SCOPE_INPUT}{self.block}.", self.block):
                    token = write_input(outside, scope._start(), token, slots)
            scope._first_tokens[self.depth_cache] = token
            if scope is outside:
                scope._tokens[self.depth_cache] = token
        return self._capture(scope._slots[self.depth_cache], outside)

    def depth_token(self) -> Value:
        """Return the latest order token of this block's depth cache, an input of the next append or read."""
        return self._token(self.depth_cache, self._depth_scopes[self.depth_cache])

    def set_depth_token(self, token: Value) -> None:
        """Make `token`, the output of an append, the latest order token."""
        self._tokens[self.depth_cache] = token

    def _token(self, block: str, scope: Builder) -> Value:
        if block not in self._tokens:
            if self._parent is None:
                from blocks.primitives.scalars import Zero

                return self.shared("zero", Zero())
            start = self.input(f"{block}.token", ORDER)
            self._carried.append((block, start, scope))
            self._tokens[block] = start
        return self._tokens[block]

    # losses

    def auxiliary_loss(self, name: str, value: Value, weight: float) -> None:
        """Add `weight` times a scalar to the training loss.

        Losses of the same `name` are summed over steps and layers, and logged as `train_<name>`.
        """
        from blocks.primitives.scalars import AddWeighted

        total = self._token(f"{_AUXILIARY}{name}", self._root())
        self._tokens[f"{_AUXILIARY}{name}"] = self.op(f"{name}_sum", AddWeighted((weight,)), total, value)

    def auxiliary_losses(self) -> dict[str, Value]:
        """Return the sum of each auxiliary loss by name; only on the builder of the model's graph."""
        sums = ((key.removeprefix(_AUXILIARY), key, value) for key, value in self._tokens.items())
        return {name: value for name, key, value in sums if name != key}

    # stages

    def stage(
        self,
        name: str,
        trips: int,
        tied: bool,
        x: Value,
        fill: Callable[[Builder, Value], Value],
        entered: Value | None = None,
    ) -> Value:
        """Add a loop of `trips` steps from the state `x` and return its last state.

        `fill`, called with the builder of the body and a state, returns the next state. `entered` is the
        input of the stage if it differs from `x`.
        """
        carried = self.next.carried

        def filled(body: Builder, x: Value, *others: Value) -> Sequence[Value]:
            body.carried = dict(zip(carried, others, strict=True))
            return [fill(body, x), *body.carried.values()]

        last, *others = self.loop(name, trips, tied, [x, *carried.values()], filled, entered).states
        self.last_carried = dict(zip(carried, others, strict=True))
        return last

    def loop(
        self,
        name: str,
        trips: int,
        tied: bool,
        states: Sequence[Value],
        fill: Callable[..., Sequence[Value]],
        entered: Value | None = None,
    ) -> LoopResult:
        """Add a loop that carries several states from step to step.

        `fill` is called with the builder of the body and the states, and returns the states of the next
        step, of the same types; for the other arguments see `stage`. Values passed to `collect` are returned
        once per step. A state that no step changes is captured instead of carried.

        Raises:
            ValueError: the body collects values, and has steps without gradients.
        """
        if self._parent is None and self._outer_x is None:
            self._outer_x = entered or states[0]
        index = f"{self._loop[0]}_{name}" if self._loop else f"n{name.removeprefix('stages.')}"
        body = Builder(self.width, self, (index, trips, tied), norm_type=self.norm_type, bias=self.bias)
        body._stand_in(self, name)
        body._outer_x = entered or states[0]
        body.custom_start = self.next.custom_start
        body._slots, self._offered = self._offered, {}
        body._first_tokens = {name: Value(slots.node, 1) for name, slots in body._slots.items()}
        # types are set by type inference
        starts = [body.input("x", TensorType()) for _ in states]
        results = fill(body, *starts)
        assert len(results) == len(states), f"{name}: {len(states)} states, {len(results)} for the next step"
        changed = [n for n, start in enumerate(starts) if results[n] != start]
        if body._collected and self.next.backprop is not None:
            raise ValueError(f"{name}: values cannot be collected where steps have no gradients")
        outer_tokens = []
        for block, _, scope in body._carried:
            own = scope is body
            outer_tokens.append(scope._first_tokens[block] if own else self._token(block, scope))
        outer = [*(states[n] for n in changed), *outer_tokens]
        inputs = [*(starts[n] for n in changed), *(token for _, token, _ in body._carried)]
        outputs = [*(results[n] for n in changed), *(body._tokens[block] for block, _, _ in body._carried)]
        body.graph.carried = len(outputs)
        constant = {starts[n]: state for n, state in enumerate(states) if n not in changed}
        body.graph.inputs = [value.node for value in (*inputs, *body._captured.values(), *constant)]
        body.graph.outputs = [*outputs, *body._collected]
        given = (*outer, *body._captured, *constant.values())
        done = self.op(name, Loop(index, trips, tied, body.graph, last=self.next.backprop), *given).node
        for number, (block, _, scope) in enumerate(body._carried, start=len(changed)):
            (self._left if scope is body else self._tokens)[block] = Value(done, number)
        made = tuple(Value(done, number) for number in range(len(body.graph.outputs)))
        last = (made[changed.index(n)] if n in changed else state for n, state in enumerate(states))
        collected = made[len(outputs) :]
        self.collected = {key: collected[number] for key, number in body._collected_names.items()}
        return LoopResult(tuple(last), collected)

    def collect(self, value: Value, name: str = "") -> None:
        """Return a value of this loop's body at every step, in `LoopResult.collected`.

        With a `name` it is in `collected` of the enclosing builder as well, until that adds another loop.
        """
        assert self._loop is not None, "values are collected inside a stage"
        if name:
            self._collected_names[name] = len(self._collected)
        self._collected.append(value)

    def stage_input(self) -> Value:
        """Return the input of this stage, the same value at every step."""
        assert self._parent is not None
        return self._capture(self._start(), self._parent, "start")

    def _start(self) -> Value:
        assert self._outer_x is not None, "only a stage has an input"
        return self._outer_x

    def outside(self, make: Callable[[Builder, Value], Value]) -> Value:
        """Return a value computed once before the steps, by `make(builder around the stage, its input)`."""
        assert self._outer_x is not None
        assert self._parent is not None
        with self._parent.at(f"{self._name}."):
            made = make(self._parent, self._outer_x)
        return self._capture(made, self._parent, "start")

    def trips(self) -> int:
        """Return the number of steps of this stage."""
        assert self._loop is not None
        return self._loop[1]

    def trip(self) -> LoopIndex:
        """Return the index of the current step within this stage."""
        assert self._loop is not None
        return LoopIndex(0, ((self._loop[0], 1),))

    # random numbers

    def randomness(self, purpose: str) -> Value:
        """Return a key [batch] for the functions in `blocks.primitives.random`.

        It depends on the seed, the optimizer step, the row of the batch, the place of use, the purpose and
        the current step of the enclosing loops. Recomputation gets the same key. Outside of training it is
        the same in every pass and for every row.
        """
        from blocks.primitives.random_operations import DeriveKey

        around = self._stages_around()
        loops = [(each._loop[0], 1 << (20 * n)) for n, each in enumerate(around) if each._loop]
        # prefixes are relative to the stage; the name of the loop index identifies that
        place = ".".join([*(name for name, _ in loops[:1]), f"{self.prefix}{purpose}"])
        derive = DeriveKey(place, LoopIndex(0, tuple(loops)))
        return self.op(f"{purpose}_key", derive, self.model_input("key", KEY))

    def model_input(self, name: str, type: TensorType) -> Value:
        """Return an input of the model besides tokens and targets, which `Randomness` provides."""
        root = self._root()
        return self._capture(Value(name) if name in root.graph.inputs else root.input(name, type), root)

    # reading from outside

    def _capture(self, value: Value, owner: Builder, name: str = "") -> Value:
        if owner is self:
            return value
        assert self._parent is not None
        outer = self._parent._capture(value, owner)
        if outer not in self._captured:
            # the type is set by type inference
            self._captured[outer] = self.input(name or value.node, TensorType())
        return self._captured[outer]

    def shared(self, name: str, operation: Operation) -> Value:
        """Return a value computed once per forward pass from the token ids, such as a table of positions.

        Equal operations share one value; `name` is only for display.
        """
        root = self._root()
        value = next((made for known, made in root._shared if known == operation), None)
        if value is None:
            value = root.op(name, operation, root.tokens())
            root._shared.append((operation, value))
        return self._capture(value, root)

    def tokens(self) -> Value:
        """Return the token ids, also for operations that need only their shape or device."""
        root = self._root()
        return self._capture(Value(root.graph.inputs[0]), root)

    def _root(self) -> Builder:
        return self if self._parent is None else self._parent._root()

    def _stages_around(self) -> list[Builder]:
        """Return the builders of the enclosing stages, innermost first."""
        return [] if self._parent is None else [self, *self._parent._stages_around()]

    def _scope(self, reach: Reach = "recur") -> Builder:
        around = self._stages_around()
        assert around, "steps exist only inside a stage"
        if reach != "recur":
            return self._root() if reach == "model" else around[-1]
        return next((each for each in around if each._loop is not None and each._loop[2]), self)

    def _scope_loops(self) -> list[tuple[str, int, bool]]:
        """Return (index, trips, tied) of the loops from here up to the depth scope."""
        around = self._stages_around()
        inside = around[: around.index(self._scope()) + 1]
        return [each._loop for each in inside if each._loop]
