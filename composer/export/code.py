"""The classes of an exported model: a class for each stage's step and one for the model, as source."""

from __future__ import annotations

import builtins
import json
import keyword
from collections.abc import Callable, Iterator

from torch import nn

from blocks.ir.decoding import LOCAL
from blocks.ir.graph import Graph, Loop, Node, fresh
from blocks.ir.operation import LoopIndex, Operation, Value
from blocks.ir.tensor_type import TensorType
from blocks.ir.walk import Place, operations
from blocks.primitives.each_step import EachStep
from blocks.primitives.operations import Input
from composer.export.inline import Inliner
from composer.graph.passes.active_steps import bodies, variants
from composer.graph.passes.some_tokens import nodes_of_some
from composer.module.emission.emit import readable
from composer.module.generation.decoding_graph import Next, use_of

Names = dict[str, str]
"""The name in the exported model's `state_dict` of each tensor of ours, by its name there."""

_INDENT = "    "
_COLUMNS = 100
"""Longer calls are written on several lines."""
_WORDS = frozenset({"self", "layer", "each", "step", "past", *keyword.kwlist, *dir(builtins)})
_HELD = frozenset({"training", "context", "vocab", "generate", "update_expert_balance", *keyword.kwlist})
"""What a module has beside the attributes of its class."""


class Classes:
    """Writes classes one after the other, inner ones first.

    Attributes:
        written: the source of each.
        cached: whether steps take a `Past`, and with one compute tokens that come after those in it.
    """

    def __init__(self, functions: Inliner, taken: set[str], cached: bool) -> None:
        """`taken` are the names that the file has at its top."""
        self.functions, self.taken, self.cached = functions, taken, cached
        self.written: list[str] = []
        self._indices: dict[str, str] = {}

    def index(self, loop: Loop, place: Place) -> str:
        """Return the name of a loop's counter, other than those of the loops around it."""
        around = {self._indices[index] for _, index in place.loops}
        return self._indices.setdefault(loop.index, fresh("step" if loop.tied else "layer_number", around))

    def counters(self, place: Place) -> list[str]:
        """Return the names of the counters of the loops around a graph, outermost first."""
        return [self._indices[index] for _, index in place.loops]

    def counter(self, index: str) -> str:
        """Return the name of a counter."""
        return self._indices[index]

    def name(self, wanted: str) -> str:
        """Return a name that nothing at the top of the file has yet."""
        name = fresh(wanted, self.taken)
        self.taken.add(name)
        return name

    @property
    def past(self) -> list[str]:
        """The parameter of a step that is the past, if there is one."""
        return ["past"] if self.cached else []

    def step(self, loop: Loop, graph: Graph, place: Place, wanted: str, about: str) -> tuple[str, Names]:
        """Write the class of one step, its weights those of `graph`; return its name, and its tensors'."""
        body = Body(self, graph, place)
        bodies = variants(loop) if loop.tied else []
        given = ", ".join([*body.parameters(graph), *self.past, *self.counters(place)])
        lines = [f"class {self.name(wanted)}(nn.Module):", f'{_INDENT}"""{about}."""', ""]
        name = lines[0].split("(")[0].removeprefix("class ")
        methods = []
        if len(bodies) > 1:
            branches = []
            for number, each in enumerate(bodies):
                steps = repr(tuple(each.steps))
                branches += [f"if {self.counters(place)[-1]} in {steps}:"]
                branches += [f"{_INDENT}return self.variant_{number}({given})"]
                own = Body(self, each.body, place, body)
                own.take({Value(name): body.values[Value(name)] for name in graph.inputs})
                methods += ["", f"def variant_{number}(self, {given}):", *_in(own.run(each.body.outputs))]
            methods = [
                "",
                f"def forward(self, {given}):",
                *_in([*branches, 'raise ValueError("no such step")']),
                *methods,
            ]
        else:
            methods = ["", f"def forward(self, {given}):", *_in(body.run(graph.outputs))]
        lines += _in([*body.constructor(), *methods])
        self.written.append("\n".join(line.rstrip() for line in lines) + "\n")
        return name, body.names


def _in(lines: list[str]) -> list[str]:
    return [f"{_INDENT}{line}" if line else "" for line in lines]


class Body:
    """The code of one graph, and what its class holds.

    Attributes:
        names: of each of its tensors, and of those of the stages in it.
    """

    def __init__(self, classes: Classes, graph: Graph, place: Place, of: Body | None = None) -> None:
        """`of` is the body whose class this code is in, where that has several."""
        self.classes, self.graph, self.place = classes, graph, place
        self._some = nodes_of_some(graph)
        self.values: dict[Value, str] = {}
        self._locals = {*classes.taken, *_WORDS, *classes.counters(place)}
        self.attributes: dict[str, str] = {} if of is None else of.attributes
        self.names: Names = {} if of is None else of.names
        self._made: list[str] = [] if of is None else of._made
        if of is None:
            self._hold()

    def _hold(self) -> None:
        """Declare the tensors of the class, and write the classes of the stages in it."""
        for name, weight in self.graph.weights.items():
            attribute = self._attribute(name)
            self.attributes[name] = self.names[name] = attribute
            shape = ", ".join(map(str, weight.shape))
            tensor = f"torch.empty({shape})"
            if weight.trained:
                made = f"self.{attribute} = nn.Parameter({tensor})"
            else:
                kept = "" if weight.saved else ", persistent=False"
                made = f'self.register_buffer("{attribute}", torch.zeros({shape}){kept})'
            self._made.append(f"{made}  # {name}")
        for name, operation, _ in operations(self.graph):
            if isinstance(operation, Loop):
                self._stage(name, operation)

    def _attribute(self, name: str) -> str:
        # nothing that nn.Module has
        return fresh(readable(name), {*self.attributes.values(), *dir(nn.Module), *_HELD})

    def _stage(self, name: str, loop: Loop) -> None:
        """Write the classes of a stage's steps, and hold them."""
        attribute = self.attributes[name] = self._attribute(name)
        self.classes.index(loop, self.place)
        place = self.place.inside(name, loop)
        wanted, path = "".join(map(str.capitalize, attribute.split("_"))), ".".join(n for n, _ in place.loops)
        if loop.tied:
            about = f"One of the {loop.trips} steps of {path}, which share these weights"
            kind, names = self.classes.step(loop, loop.body, place, f"{wanted}Step", about)
            self._made.append(f"self.{attribute} = {kind}()")
            self.names |= {f"{name}.step.{ours}": f"{attribute}.{theirs}" for ours, theirs in names.items()}
            return
        layers = bodies(loop)
        kinds: dict[Graph, tuple[str, Names]] = {}
        for number, body in enumerate(layers):
            if body not in kinds:
                about = f"A layer of {path}"
                kinds[body] = self.classes.step(loop, body, place, f"{wanted}Layer", about)
            theirs = kinds[body][1].items()
            self.names |= {f"{name}.layers.{number}.{a}": f"{attribute}.{number}.{b}" for a, b in theirs}
        made = ", ".join(f"{kinds[body][0]}()" for body in layers)
        if len(kinds) == 1:
            made = f"{next(iter(kinds.values()))[0]}() for _ in range({loop.trips})"
        self._made.append(f"self.{attribute} = nn.ModuleList([{made}])")

    def constructor(self) -> list[str]:
        """Return the lines of `__init__`."""
        return ["def __init__(self):", *_in(["super().__init__()", *self._made])]

    def take(self, values: dict[Value, str]) -> None:
        """Have values under names that are given."""
        self.values |= values
        self._locals |= {*values.values()}

    def parameters(self, graph: Graph) -> list[str]:
        """Return the names of what comes in, in order."""
        return [self._named(Value(name)) for name in graph.inputs]

    def run(self, outputs: list[Value]) -> list[str]:
        """Return the lines that compute outputs and return them."""
        lines = [*self.lines(lambda _: True)]
        return [*lines, f"return {', '.join(map(self.value, outputs))}"]

    def lines(self, only: Callable[[str], bool]) -> Iterator[str]:
        """Yield the lines of the nodes that are wanted."""
        for name, operation, node in operations(self.graph):
            if isinstance(operation, Input) or not only(name):
                continue
            if isinstance(operation, Loop):
                yield from self._loop(name, operation, node)
            else:
                yield from self._call(name, node)

    def value(self, value: Value) -> str:
        """Return the name of a value."""
        return self.values[value]

    def _named(self, value: Value, wanted: str = "") -> str:
        name = wanted or readable(value.node)
        if name in self._locals:
            name = fresh(f"{name}_out", self._locals)
        self._locals.add(name)
        self.values[value] = name
        return name

    def _call(self, name: str, node: Node) -> Iterator[str]:
        operation, kernel = node.op, node.kernel
        path = (
            operation.operation.kernels[-1].function if isinstance(operation, EachStep) else kernel.function
        )
        arguments = [self.value(value) for value in node.inputs]
        held = weights = [self._weight(each) for each in node.weights]
        if kernel.prepare:
            weights = [f"*{self.classes.functions.function(kernel.prepare)}({', '.join(weights)})"]
        constants = operation.arguments()
        if isinstance(operation, EachStep):
            del constants["function"]
        constant_arguments = [f"{key}={self._argument(each)}" for key, each in constants.items()]
        function = self.classes.functions.function(path)
        given = [*weights, *constant_arguments]
        count = len(node.types)
        names = [
            self._named(Value(name, n), readable(name) + (f"_{n}" if count > 1 else "")) for n in range(count)
        ]
        chosen = name in self._some or name in self._some.values()
        bound, shape = ", ".join(names), _shape(node.types[0], "chosen" if chosen else "S")
        if isinstance(operation, EachStep):
            line = f"{bound} = tuple({function}({', '.join(['each', *given])}) for each in {arguments[0]})"
            lines = [f"{line}{shape}"]
        else:
            lines = _call(bound, function, [*arguments, *given], shape)
        following = self._next(name, operation, [*arguments, "past", *held])
        if following is None:
            yield from lines
            return
        yield "if past is None:"
        yield from _in(lines)
        yield "else:"
        yield from _in(_call(bound, *following))

    def _next(self, name: str, operation: Operation, arguments: list[str]) -> tuple[str, list[str]] | None:
        """Return the function, and its arguments, for tokens that come after those of a past.

        None stands for the function that runs without a past.
        """
        decoding = operation.decoding_of_some if name in self._some else operation.decoding
        if not self.classes.cached or operation.decoding == LOCAL or not decoding:
            return None
        path = self.place.path
        chosen_by = f"{path}{self._some[name]}" if name in self._some else ""
        following = Next(operation, f"{path}{name}", use_of(self.place), chosen_by)
        (kernel,) = following.kernels
        keywords = [f"{key}={self._argument(each)}" for key, each in following.arguments().items()]
        return self.classes.functions.function(kernel.function), [*arguments, *keywords]

    def _weight(self, name: str) -> str:
        held = f"self.{self.attributes[name]}"
        return held if self.graph.weights[name].saved else f"{held} if self.training else None"

    def _loop(self, name: str, loop: Loop, node: Node) -> Iterator[str]:
        body, held = loop.body, f"self.{self.attributes[name]}"
        inputs = [self.value(value) for value in node.inputs]
        states = [
            self._named(Value(name, n), f"{readable(name)}_{readable(body.inputs[n])}")
            for n in range(body.carried)
        ]
        lists = [
            self._named(Value(name, n), f"{readable(name)}_{readable(body.outputs[n].node)}_of_steps")
            for n in range(body.carried, len(body.outputs))
        ]
        for state, start in zip(states, inputs, strict=False):
            yield f"{state} = {start}"
        for each in lists:
            yield f"{each} = []"
        index, around = self.classes.index(loop, self.place), self.classes.counters(self.place)
        given = [*states, *inputs[body.carried :], *self.classes.past, *around, index]
        latest = [fresh(f"{each}_now", self._locals) for each in lists]
        made = ", ".join([*states, *latest])
        first = loop.without_gradients
        if first:
            yield f"with torch.no_grad():  # gradients go through the last {loop.last} steps"
            yield f"{_INDENT}for {index} in range({first}):"
            yield from _in(_in(_call(made, held, given)))
            yield "torch.clear_autocast_cache()"
        if loop.tied:
            yield f"for {index} in range({f'{first}, ' if first else ''}{loop.trips}):"
        else:
            yield f"for {index}, layer in enumerate({held}):"
            held = "layer"
        yield from _in(_call(made, held, given))
        for each, now in zip(lists, latest, strict=True):
            yield f"{_INDENT}{each}.append({now})"

    def _argument(self, argument: object) -> str:
        if isinstance(argument, str):
            return json.dumps(argument)
        if not isinstance(argument, LoopIndex):
            return repr(argument)
        counters = [(self.classes.counter(index), stride) for index, stride in argument.strides]
        terms = [index if stride == 1 else f"{stride} * {index}" for index, stride in counters]
        for count in argument.counts:
            steps = tuple(count.steps.among(self.place.trips[count.loop]))
            sign = "<=" if count.inclusive else "<"
            term = f"sum(each {sign} {self.classes.counter(count.loop)} for each in {steps})"
            terms.append(term if count.stride == 1 else f"{count.stride} * {term}")
        return " + ".join([*terms, str(argument.base)] if argument.base or not terms else terms)


def _call(bound: str, function: str, arguments: list[str], comment: str = "") -> list[str]:
    """Return the lines of an assignment of what a function returns."""
    given = ", ".join(arguments)
    if len(line := f"{bound} = {function}({given}){comment}") <= _COLUMNS:
        return [line]
    inside = [given] if len(given) <= _COLUMNS else [f"{each}," for each in arguments]
    return [f"{bound} = {function}(", *_in(inside), f"){comment}"]


def _shape(kind: TensorType, tokens: str) -> str:
    """Return a comment that tells a value's shape; `tokens` stands for the number of tokens of a row."""
    if kind.kind == "table":
        # rotations of pairs of elements
        return f"  # [S, 1, {kind.shape[-1] // 2}], complex"
    sizes = [*map(str, kind.shape)]
    before = {"token": ["B", tokens], "row": ["B"], "constant": []}
    before |= {"mask": ["S", "S"], "pairs": ["B", "S", "S"]}
    return f"  # [{', '.join([*before[kind.kind], *sizes])}]" if kind.kind in before else ""
