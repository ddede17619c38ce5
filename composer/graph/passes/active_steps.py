"""Bodies of loops with nodes that are active only at some of the steps.

A skipped node does not run: what reads it reads the input that it passes on instead, such as the residual
stream. Emission takes the distinct bodies of a loop (`variants`). Costs take a graph in which such a loop is
a chain of plain loops (`segmented`), so that every cost is counted as for any graph. Those of a tied loop
share their weights; layers of a stack have weights for what they run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from itertools import chain, groupby
from typing import Any, NamedTuple

from blocks.ir.cost_wrapper import OfSegments
from blocks.ir.graph import Graph, Loop, Node, Segment
from blocks.ir.operation import LoopIndex, Operation, Value
from blocks.ir.walk import graphs, map_nodes, operations
from blocks.primitives.operations import Input
from composer.graph.passes.some_tokens import chooses, counted_by_share


class Unskippable(ValueError):
    """An operation is skipped at a step at which others need its output."""


class Variant(NamedTuple):
    """The steps of a loop at which the same nodes are active, and the loop's body at these steps."""

    steps: Sequence[int]
    body: Graph


def variants(loop: Loop) -> list[Variant]:
    """Return the distinct bodies of a loop in the order in which they first run.

    Raises:
        Unskippable: at some step an active node reads a skipped one that passes no input on.
    """
    if _is_uniform(loop.body):
        return [Variant(range(loop.trips), loop.body)]
    steps: dict[frozenset[str], list[int]] = {}
    for step, skipped in enumerate(_skipped(loop)):
        steps.setdefault(skipped, []).append(step)
    return [Variant(each, _without(loop.body, skipped, each[0])) for skipped, each in steps.items()]


def check_skips(graph: Graph) -> None:
    """Check that no operation needs an output that is skipped at its step.

    Raises:
        Unskippable: at some step they cannot.
    """
    for body, _ in graphs(graph):
        for _, operation, _ in operations(body):
            # the number of steps decides nothing where all of them run the same
            if isinstance(operation, Loop) and not _is_uniform(operation.body):
                variants(operation)


def bodies(loop: Loop) -> list[Graph]:
    """Return the body for each set of weights: one for all steps, or one for each layer."""
    if loop.tied:
        return [loop.body]
    by_layer = {step: each.body for each in variants(loop) for step in each.steps}
    return [by_layer[layer] for layer in range(loop.trips)]


def costed(graph: Graph, length: int = 1) -> Graph:
    """Return the graph on which costs are counted: the training graph, `segmented`.

    Operations on some of the tokens cost what they do in sequences of `length`.
    """
    made = segmented(_trained(graph))
    if any(chooses(body) for body, _ in graphs(made)):
        made = counted_by_share(made, length)
    if graph.second is not None:
        made = made.copy() if made is graph else made
        made.second = costed(graph.second, length)
    return made


def _trained(graph: Graph) -> Graph:
    """Return a graph without the operations that only the logits need; weights are kept."""
    needed = {*(value.node for value in graph.trained), *graph.inputs}
    for name in reversed([*graph]):
        if name in needed:
            needed.update(graph.predecessors(name))
    if len(needed) == len(graph):
        return graph
    made = graph.empty()
    for name, _, node in operations(graph):
        if name in needed:
            made.put(name, node)
    made.outputs = graph.trained
    return made


def segmented(graph: Graph) -> Graph:
    """Return the graph with each loop that skips nodes or tokens split into a chain of plain loops.

    Steps at which nothing happens are left out. Graphs without such loops are returned as they are.
    """
    if not _splits(graph):
        return graph
    made = graph.empty()
    moved: dict[Value, Value] = {}
    parts: dict[Value, list[Value]] = {}  # of what a loop collected
    for name, operation, node in operations(graph):
        inputs = tuple(moved.get(value, value) for value in node.inputs)
        if not isinstance(operation, Loop):
            made.put(name, _reading_parts(replace(node, inputs=inputs), parts))
            continue
        loop = replace(operation, body=segmented(operation.body))
        if _is_plain(loop):
            made.put(name, replace(node, op=loop, inputs=inputs))
            continue
        values, carried = [*inputs], loop.body.carried
        for segment, given, changed in _segments(name, loop):
            own = f"{name}@{segment.first}"
            inputs = tuple(values[position] for position in given)
            types = [node.types[position] for position in changed]
            types += [replace(each, shape=(segment.trips, *each.shape[1:])) for each in node.types[carried:]]
            made.put(own, replace(node, op=segment, inputs=inputs, types=tuple(types)))
            for output, position in enumerate(changed):
                values[position] = Value(own, output)
            for number in range(len(node.types) - carried):
                parts.setdefault(Value(name, carried + number), []).append(Value(own, len(changed) + number))
        moved |= {Value(name, output): values[output] for output in range(carried)}
    made.outputs = [moved.get(value, value) for value in graph.outputs]
    return made


def _reading_parts(node: Node, parts: Mapping[Value, Sequence[Value]]) -> Node:
    """Return a node that reads, in the place of what a loop collected, what its segments did."""
    if not any(value in parts for value in node.inputs):
        return node
    inputs = [parts.get(value, [value]) for value in node.inputs]
    counts = tuple(map(len, inputs))
    return replace(node, op=OfSegments(node.op, counts), inputs=tuple(chain.from_iterable(inputs)))


def _is_uniform(body: Graph) -> bool:
    return all(node.active is None for _, _, node in operations(body))


def _splits(graph: Graph) -> bool:
    loops = [operation for _, operation, _ in operations(graph) if isinstance(operation, Loop)]
    return any(not _is_plain(loop) or _splits(loop.body) for loop in loops)


def _is_plain(loop: Loop) -> bool:
    """Return whether all steps run the same nodes, on as many tokens, and with gradients."""
    return _is_uniform(loop.body) and not chooses(loop.body) and not loop.without_gradients


def _skipped(loop: Loop) -> Iterator[frozenset[str]]:
    """Yield the nodes that each step skips."""
    active = {
        name: frozenset(node.active.among(loop.trips))
        for name, _, node in operations(loop.body)
        if node.active is not None
    }
    for step in range(loop.trips):
        yield frozenset(name for name, steps in active.items() if step not in steps)


def _without(body: Graph, skipped: frozenset[str], step: int) -> Graph:
    """Return a body without skipped nodes and their exclusive inputs; its own inputs are kept."""
    if not skipped:
        return body

    def moved(value: Value) -> Value:
        while value.node in skipped:
            node = body.node(value.node)
            position = node.op.passthrough(value.output)
            if position is None:
                raise Unskippable(f"{value.node}: skipped at step {step}, where another operation reads it")
            value = node.inputs[position]
        return value

    outputs = [*map(moved, body.outputs)]
    needed, waiting = set(body.inputs), [value.node for value in outputs]
    while waiting:
        name = waiting.pop()
        if name not in needed:
            needed.add(name)
            waiting += [moved(value).node for value in body.node(name).inputs]
    returned = {value.node for value in outputs}
    made = body.empty()
    for name, _, node in operations(body):
        if name in needed:
            inputs = tuple(map(moved, node.inputs))
            # what a step returns is there as a tensor
            made.put(name, replace(node, inputs=inputs, recompute=node.recompute and name not in returned))
    made.outputs = outputs
    used = {weight for _, _, node in operations(made) for weight in node.weights}
    made.weights = {name: weight for name, weight in body.weights.items() if name in used}
    return made


def _segments(name: str, loop: Loop) -> Iterator[tuple[Segment, list[int], list[int]]]:
    """Yield the segments of a loop, with the positions of inputs that each reads and changes."""
    parts = []
    frozen, apart = loop.without_gradients, chooses(loop.body)
    # each step that chooses tokens has costs of its own
    kinds = ((skipped, step < frozen, apart and step) for step, skipped in enumerate(_skipped(loop)))
    for (skipped, is_frozen, _), group in groupby(enumerate(kinds), key=lambda each: each[1]):
        steps = [step for step, _ in group]
        first, after = steps[0], steps[-1] + 1
        body = _rebased(_without(loop.body, skipped, first), loop, first, after)
        body, given, changed = _trimmed(_unmarked(body) if is_frozen else body)
        if changed or body.outputs:
            parts.append((first, after - first, body, given, changed, is_frozen))
    # layers of a stack share no weights; what steps without gradients prepare goes with the last others
    named = [frozenset(nodes(body) if loop.tied and not still else ()) for _, _, body, _, _, still in parts]
    shared = [frozenset(_shared(body) if loop.tied else body.inputs) for _, _, body, *_ in parts]
    every = frozenset().union(*named)
    for number, (first, trips, body, given, changed, is_frozen) in enumerate(parts):
        before = every if is_frozen else frozenset().union(*named[:number])
        after_it = frozenset().union(*shared[number + 1 :])
        segment = Segment(loop.index, trips, loop.tied, body, name, first, before, after_it, is_frozen)
        yield segment, given, changed


def _unmarked(body: Graph) -> Graph:
    """Return a body, with the loops in it, of which nothing runs again."""
    return map_nodes(body, lambda node: replace(node, recompute=False))


def _rebased(body: Graph, loop: Loop, first: int, after: int) -> Graph:
    """Return a body in which the loop's index counts from 0 at step `first`."""

    def moved(node: Node) -> Node:
        return replace(node, op=_with_indices(node.op, loop, first, after), active=None)

    return map_nodes(body, moved)


def _with_indices(operation: Any, loop: Loop, first: int, after: int) -> Operation:
    held = {field.name: getattr(operation, field.name) for field in fields(operation)}
    indices = {
        name: value.from_step(loop.index, first, after, loop.trips)
        for name, value in held.items()
        if isinstance(value, LoopIndex)
    }
    at_steps: Operation = replace(operation, **indices) if indices else operation
    return at_steps


def _trimmed(body: Graph) -> tuple[Graph, list[int], list[int]]:
    """Return a body whose carried values all change, with the inputs it keeps and the changed ones.

    What it collects stays.
    """
    changed = [n for n in range(body.carried) if body.outputs[n] != Value(body.inputs[n])]
    outputs = [*(body.outputs[n] for n in changed), *body.outputs[body.carried :]]
    returned = {value.node for value in outputs}
    constant = [
        n
        for n, name in enumerate(body.inputs)
        if n not in changed and (body.out_degree(name) or name in returned)
    ]
    given = [*changed, *constant]
    names = [body.inputs[n] for n in given]
    made = body.copy()
    made.remove_nodes_from({*body.inputs} - {*names})
    made.inputs, made.outputs, made.carried = names, outputs, len(changed)
    return made, given, changed


def nodes(body: Graph) -> Iterator[str]:
    """Yield the names of a body's nodes, and of those of the loops in it."""
    for name, operation, _ in operations(body):
        if isinstance(operation, Loop):
            origin = operation.origin if isinstance(operation, Segment) else name
            yield from (f"{origin}.{each}" for each in nodes(operation.body))
        elif not isinstance(operation, Input):
            yield name


def _shared(body: Graph) -> Iterator[str]:
    """Yield the names of a body's weights and inputs, and of the weights of the loops in it."""
    yield from (*body.inputs, *body.weights)
    for name, operation, _ in operations(body):
        if isinstance(operation, Loop):
            origin = operation.origin if isinstance(operation, Segment) else name
            yield from (f"{origin}.{each}" for each in _shared(operation.body))
