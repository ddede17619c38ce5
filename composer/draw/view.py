"""The content of a picture: a spec's parts in order, each with its operations, weights and FLOPs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, TypeAlias

from blocks.base.builder import SCOPE_INPUT
from blocks.base.config import BlockConfig
from blocks.base.wiring import Site
from blocks.ir.graph import Graph, Loop, Node
from blocks.ir.operation import Operation
from blocks.ir.tensor_type import Shape
from blocks.ir.walk import Place, operations
from blocks.kernels.slots import DepthKVCache, SlotRead, SlotWrite
from blocks.primitives.operations import Input, Project
from blocks.wiring.combine.config import Combine
from composer.costs.counting.count import Costs
from composer.costs.counting.count import Row as CostRow
from composer.costs.counting.plan import make_plan
from composer.draw.parts import Joint, Joints, Part, Row, grouped
from composer.draw.theme import TIMES
from composer.draw.wiring import Additions, additions
from composer.graph.passes.plan import shape_text, types_text
from composer.language.schema.levels import (
    Sublayer,
    entry_options,
    long_form,
    shortest,
    site,
    stage_options,
    sublayer_places,
)
from composer.language.schema.spec import Parallel, Spec, Stage, used


@dataclass(frozen=True)
class Use:
    """A block at its place of use; `slots`: whose depth slots it writes or reads; `at`: when it runs."""

    name: str
    block: BlockConfig
    part: Part
    slots: str
    at: str | None


@dataclass(frozen=True)
class Mix:
    """Parallel blocks, and the operations that combine them."""

    uses: tuple[Use, ...]
    combine: str
    part: Part


@dataclass(frozen=True)
class Held:
    """The depth slots of one block that a stage keeps while its steps run."""

    block: str
    count: int
    kind: str
    shape: str


@dataclass(frozen=True)
class StageView:
    """A stage: its entries, the additions of options to it, its steps and sublayers, and its slots."""

    place: str
    stage: Stage
    site: Site
    loop: Joints
    step: Joints
    sublayers: tuple[Joints, ...]
    entries: tuple[Entry, ...]
    held: tuple[Held, ...]


Entry: TypeAlias = Use | Mix | StageView


@dataclass(frozen=True)
class View:
    """A model: embedding, stages, final norm, head, and total costs."""

    spec: Spec
    costs: Costs
    embed: Part
    stages: tuple[StageView, ...]
    norm: Part
    head: Part
    loss: Part


def view(spec: Spec) -> View:
    """Read a spec's graph and costs, part by part."""
    plan = make_plan(spec)
    # it does not matter on which level an option is given
    spec = shortest(spec)
    costs: dict[str, list[CostRow]] = defaultdict(list)
    for row in plan.costs.by_operation:
        costs[row.place].append(row)
    body = _Body(spec, plan.graph, Place(), set(), costs)
    stages = tuple(
        _stage(body, f"stages.{number}", f"stages.{number}", stage)
        for number, stage in enumerate(spec.stages)
    )
    names = ("embed", "norm", "head", "loss")
    embed, norm, head, loss = (
        Part((*body.part(name).rows, *(body.below(name).rows if name == "loss" else ()))) for name in names
    )
    beside = ("add_positions", "dropout_key", "dropout")
    embed = Part((*embed.rows, *(row for name in beside for row in body.part(name).rows)))
    return View(spec, plan.costs, embed, stages, norm, head, loss)


class _Body:
    """One graph's operations by name, with joined projections split by weight."""

    def __init__(
        self,
        spec: Spec,
        graph: Graph,
        place: Place,
        seen: set[tuple[int, str]],
        costs: Mapping[str, Sequence[CostRow]],
    ) -> None:
        """`costs` are the rows of each operation by its place."""
        self.spec, self.graph, self.place, self.seen, self.costs = spec, graph, place, seen, costs
        self.outside: _Body | None = None
        self.drawn: set[int] = set()
        self.rows: list[Row] = []
        # what blocks add in front of a stage, by block
        self.made_outside: dict[str, list[Row]] = defaultdict(list)
        for node, operation, data in operations(graph):
            rows = [*self._rows(node, operation, data)]
            self.rows += rows
            stage, scope, _ = node.partition(SCOPE_INPUT)
            if scope and (not stage or isinstance(_operation(graph, stage[:-1]), Loop)):
                self.made_outside[data.blocks[0]] += rows
        self._named: dict[str, list[Row]] = defaultdict(list)
        self._below: dict[str, list[Row]] = defaultdict(list)
        for row in self.rows:
            self._named[row.name].append(row)
            for around in _around(row.name):
                self._below[around].append(row)
        self.slots = {
            around: data.blocks[0]
            for node, op, data in operations(graph)
            if isinstance(op, (SlotRead, SlotWrite))
            for around in _around(node)
        }

    def part(self, name: str) -> Part:
        """Return the operation of a name, or an empty one."""
        return Part(tuple(self._named.get(name, ())))

    def below(self, place: str) -> Part:
        """Return the operations of a block at its place of use; the block may be called like an operation."""
        return Part(tuple(self._below.get(place, ())))

    def inside(self, node: str) -> _Body:
        """Return the body of a stage."""
        loop = self.graph.loop(node)
        place = self.place.at(self.graph.node(node).active).inside(node, loop)
        body = _Body(self.spec, loop.body, place, self.seen, self.costs)
        body.outside, body.drawn = self, self.drawn
        return body

    def used(self, place: str, block: str) -> Part:
        """Return a block's operations at a place of use; at the first, also those on its scope's input."""
        rows = [*self.below(place).rows]
        outer = self.outside
        while outer is not None:
            rows += (row for row in outer.made_outside[block] if id(row) not in self.drawn)
            outer = outer.outside
        self.drawn.update(map(id, rows))
        return Part(tuple(rows))

    def _rows(self, node: str, operation: Operation, data: Node) -> Iterator[Row]:
        if isinstance(operation, (Loop, Input)):
            return
        place = ".".join([*(name for name, _ in self.place.loops), node])
        rows = self.costs.get(place, ())
        forward, backward = sum(row.share.forward for row in rows), sum(row.share.backward for row in rows)
        used = self.place.at(data.active)
        kernel = data.kernel.name
        weights = data.weights
        if isinstance(operation, Project) and len(operation.outputs) > 1:
            for number, shape in enumerate(operation.outputs):
                part = prod(shape) / operation.width
                own = weights[number :: len(operation.outputs)]
                cells = self._weights(own, kernel, used.copies)
                yield Row(own[0], _shape(shape), *cells, forward * part, backward * part, used.executions)
        else:
            shapes = types_text(data.types, TIMES, " and ")
            cells = self._weights(weights, kernel, used.copies)
            yield Row(node, shapes, *cells, forward, backward, used.executions)

    def _weights(self, names: Any, kernel: str, copies: int) -> tuple[str, str, int, int]:
        """Describe weights and kernel, and count what was not counted before."""
        weights = [(name, self.graph.weights[name]) for name in names]
        text = ", ".join(f"{name.rpartition('.')[2]} {_shape(weight.shape)}" for name, weight in weights)
        params = active = 0
        for name, weight in weights:
            if weight.trained and (id(self.graph), name) not in self.seen:
                self.seen.add((id(self.graph), name))
                size = weight.size * copies
                params += size
                active += size * weight.active[0] // weight.active[1]
        return text, kernel, params, active


def _operation(graph: Graph, name: str) -> Operation | None:
    return graph.node(name).op if name in graph else None


def _stage(outside: _Body, node: str, place: str, stage: Stage) -> StageView:
    model = outside.spec.model
    options = stage_options(model, stage)
    held = tuple(_held(outside, node))
    body = outside.inside(node)
    loop = _joints(outside, f"{node}.", additions(options, stage, "around_loop", model.width))
    step = _joints(body, "", additions(options, stage, "around_step", model.width))
    step = replace(step, before=tuple(_with_outside(joint, outside, node) for joint in step.before))

    places = iter(sublayer_places(stage, outside.spec.blocks))

    def around(number: int, entry: Sublayer | Stage) -> Joints:
        if isinstance(entry, Stage):
            return Joints()
        own = entry_options(options, entry)
        added = additions(own, stage, "around_sublayer", model.width, next(places))
        return _joints(body, f"{number}.", added)

    sublayers = tuple(around(number, entry) for number, entry in enumerate(stage.step))
    entries = tuple(
        _entry(body, number, entry, place, sublayers[number]) for number, entry in enumerate(stage.step)
    )
    around_entries = tuple(map(grouped, sublayers))
    return StageView(
        place, stage, site(model, stage), grouped(loop), grouped(step), around_entries, entries, held
    )


def _joints(body: _Body, prefix: str, added: Additions) -> Joints:
    before, after = (
        [Joint(each, body.part(f"{prefix}{each.name}")) for each in part]
        for part in (added.before, added.after)
    )
    there = tuple(joint for joint in before if joint.part.rows or not joint.added.on_demand)
    return Joints(there, tuple(after))


def _with_outside(joint: Joint, outside: _Body, node: str) -> Joint:
    """Return an operation with the operations before the stage that produce its inputs."""
    made = (row for name in joint.added.outside for row in outside.part(f"{node}.{name}").rows)
    return replace(joint, part=replace(joint.part, rows=(*made, *joint.part.rows)))


def _entry(body: _Body, number: int, entry: Sublayer | Stage, place: str, around: Joints) -> Entry:
    match entry:
        case Stage():
            return _stage(body, str(number), f"{place}.step.{number}", entry)
        case Parallel():
            uses = tuple(
                _use(body, f"{number}.{n}.{name}", name, entry.at) for n, name in enumerate(entry.parallel)
            )
            apart = {f"{number}.{joint.added.name}" for joint in (*around.before, *around.after)}
            rows = tuple(
                row
                for row in body.rows
                if row.name.rpartition(".")[0] == str(number) and row.name not in apart
            )
            return Mix(uses, entry.option(Combine).name, Part(rows))
        case _:
            (name,) = used(entry)
            return _use(body, f"{number}.{name}", name, long_form(entry).at)


def _use(body: _Body, place: str, name: str, at: str | None) -> Use:
    return Use(name, body.spec.blocks[name], body.used(place, name), body.slots.get(place, ""), at)


def _around(name: str) -> Iterator[str]:
    """Yield the enclosing places of a dotted name: `0.seq` and `0` for `0.seq.query`."""
    while name := name.rpartition(".")[0]:
        yield name


def _held(body: _Body, node: str) -> Iterator[Held]:
    """Yield the depth slots that a stage's graph creates, those of several places of a block together."""
    held: dict[str, Held] = {}
    for value in body.graph.node(node).inputs:
        made = body.graph.node(value.node)
        operation, block = made.op, made.blocks[0]
        if isinstance(operation, DepthKVCache) and value.output == 0:
            shape = _shape((2, operation.kv_heads, operation.head_dim))
            count = operation.count + (held[block].count if block in held else 0)
            held[block] = Held(block, count, body.spec.blocks[block].type, shape)
    yield from held.values()


def _shape(shape: Shape) -> str:
    return shape_text(shape, TIMES)
