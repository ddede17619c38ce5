"""Slots, reads and depth indices equal those of a simulation that executes the spec step by step."""

import pytest
from cases import CASES, DEPTH, FFN, tree
from hypothesis import given
from samples import samples
from strategies import make, specs

from blocks.ir.graph import Loop
from blocks.ir.walk import operations
from blocks.kernels.slots import DepthKVCache, SlotRead, SlotWrite
from blocks.primitives.operations import RotateStep
from composer.graph.compile import compile_graph


def uses_slots(block):
    return getattr(block, "depth", "none") == "joint" or getattr(block, "steps", "own") == "all"


class Simulation:
    """Runs the depth blocks of a spec; an event is (block, slot, slots read, depth index)."""

    def __init__(self, spec):
        self.blocks = spec.blocks
        self.events, self.memories, self.whole = [], [], {}
        for stage in spec.stages:
            self.stage(stage, None, in_recur=False)
        self.sizes = sorted((name, len(slots)) for name, slots in self.memories)

    def stage(self, stage, scope, in_recur):
        if scope is None:
            self.wider = {"model": self.whole, "stage": {}}
        own = stage.recur or not in_recur
        if own:
            scope = {}
        for n in range(stage.trips):
            run = object()
            for entry in stage.step:
                if n not in range(stage.trips)[as_slice(getattr(entry, "at", None))]:
                    continue
                if hasattr(entry, "step"):
                    self.stage(entry, scope, in_recur or bool(stage.recur))
                else:
                    for name in getattr(entry, "parallel", [getattr(entry, "use", entry)]):
                        block = self.blocks[name]
                        if block.type == "depth_attention" or uses_slots(block):
                            self.depth(name, scope, run)
                        elif getattr(block, "kv_for", None) and not (own and n + 1 == stage.trips):
                            # it writes a slot that nothing at its own step reads
                            scope[block.kv_for].append((run, scope[block.kv_for][-1][1]))

    def depth(self, name, scope, run):
        scope = self.wider.get(getattr(self.blocks[name], "depth_scope", "recur"), scope)
        if name not in scope:
            # the input of the scope, if it is a slot, is there before all steps
            scope[name] = [(None, 0)] if getattr(self.blocks[name], "input", False) else []
            self.memories.append((name, scope[name]))
        slots = scope[name]
        if not slots:
            index = 0
        elif slots[-1][0] is run:
            index = slots[-1][1]
        else:
            index = slots[-1][1] + 1
        slots.append((run, index))
        block = self.blocks[name]
        inclusive = getattr(block, "span", "") == "inclusive" or getattr(block, "steps", "") == "all"
        reads = len(slots) if inclusive else sum(other < index for _, other in slots)
        self.events.append((name, len(slots) - 1, reads, index))


class Execution:
    """Runs the numbered graph itself, loop by loop, and gathers the same."""

    def __init__(self, spec):
        self.spec = spec
        self.events, self.sizes = [], []
        self.run(compile_graph(spec), {})
        self.sizes.sort()

    def run(self, graph, indices, step=0, trips=1):
        for _, operation, data in operations(graph):
            block = data.blocks[0]
            if data.active and step not in data.active.among(trips):
                continue
            if isinstance(operation, Loop):
                for n in range(operation.trips):
                    inner = {operation.index: n, f"{operation.index} trips": operation.trips}
                    self.run(operation.body, {**indices, **inner}, n, operation.trips)
            elif isinstance(operation, DepthKVCache):
                self.sizes.append((block, operation.count))
            elif not block:
                continue  # residual mixes, whose slots are counted by the equations
            elif isinstance(operation, SlotWrite):
                self.slot, self.key = at(operation.slot, indices), index(graph, data, indices)
            elif isinstance(operation, SlotRead):
                query = index(graph, data, indices)
                assert query == self.key, "query and key of one step are rotated by the same index"
                self.events.append((block, self.slot, at(operation.reads, indices), query))


def at(affine, indices):
    counts = sum(each.at(indices[each.loop], indices[f"{each.loop} trips"]) for each in affine.counts)
    return affine.base + sum(stride * indices[name] for name, stride in affine.strides) + counts


def as_slice(at):
    return slice(*(int(part) if part else None for part in (at or ":").split(":")))


def index(graph, data, indices):
    rotation = graph.node(data.inputs[0].node).op
    return at(rotation.index, indices) if isinstance(rotation, RotateStep) else None


def check(spec):
    got, expected = Execution(spec), Simulation(spec)
    rotary = {name: getattr(block, "rotary", False) for name, block in spec.blocks.items()}
    assert got.events == [
        (name, slot, reads, step if rotary[name] else None) for name, slot, reads, step in expected.events
    ]
    assert got.sizes == expected.sizes


@samples(150)
@given(specs(room=12))
def test_generated_specs_number_slots_as_they_execute(spec):
    check(spec)


@pytest.mark.parametrize("case", [case for case in CASES if "depth" in str(CASES[case])])
def test_each_case_numbers_slots_as_it_executes(case):
    check(make(CASES[case]))


def test_a_looped_stack_counts_on_through_its_layers():
    spec = make(tree({"d": DEPTH, "f": FFN}, {"recur": 2, "step": [{"stack": 3, "step": ["d", "f"]}]}))
    result = Execution(spec)
    assert result.events == [("d", n, n + 1, n) for n in range(6)]
    assert result.sizes == [("d", 6)]


def test_side_by_side_in_a_step_is_one_depth():
    exclusive = {**DEPTH, "span": "exclusive"}
    spec = make(tree({"d": exclusive}, {"recur": 2, "step": [{"parallel": ["d", "d"]}]}))
    assert Execution(spec).events == [("d", 0, 0, 0), ("d", 1, 0, 0), ("d", 2, 2, 1), ("d", 3, 2, 1)]
