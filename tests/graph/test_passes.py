"""Each pass does what it says, and nothing else."""

from collections import Counter

import pytest
import torch
from cases import CASES, DREAMER, EXPERT, FFN, SEQ, tree
from hypothesis import example, given
from models import close, compiled, gradients, tokens_for
from samples import samples
from strategies import make, specs

import composer.graph.compile
from blocks.base.builder import Builder
from blocks.ir.graph import Graph, Loop
from blocks.ir.kernel import Target
from blocks.ir.operation import Init, Value, Weight
from blocks.ir.tensor_type import TensorType
from blocks.ir.walk import graphs, operations, passes
from blocks.primitives.operations import Input, Norm, Project, Sum
from composer.costs.counting.plan import make_plan
from composer.graph.compile import compile_graph
from composer.graph.lowering.build import build
from composer.graph.passes.choose_kernels import choose_kernels
from composer.graph.passes.dead_code import dead_code
from composer.graph.passes.infer_types import infer_types
from composer.graph.passes.merge_projections import merge_projections
from composer.graph.passes.plan import plan_lines
from composer.graph.passes.tie_weights import tie_weights

WIDTH = 8


def small():
    """A graph of one input x [8]."""
    builder = Builder(WIDTH)
    return builder, builder.input("x", TensorType((WIDTH,), "stream"))


def names(graph):
    return [node for node, _, _ in operations(graph)]


def ordered(graph):
    """Whether every operation comes after what it reads."""
    seen = set()
    for node, _, data in operations(graph):
        if not {value.node for value in data.inputs} <= seen | {node}:
            return False
        seen.add(node)
    return True


# dead code


def test_dead_code_removes_what_no_output_needs_with_its_weights():
    builder, x = small()
    y = builder.project(x, "kept", (4,))
    for n in range(9):  # far more is dead than alive
        x = builder.project(x, f"dead{n}", (WIDTH,))
    builder.graph.outputs = [builder.project(y, "out", (WIDTH,), 4)]
    graph = dead_code(builder.graph)
    assert names(graph) == ["x", "kept", "out"]
    assert list(graph.weights) == ["kept", "out"]
    assert isinstance(graph, Graph)


def test_dead_code_keeps_the_order_of_what_lives():
    builder, x = small()
    for n in range(12):
        y = builder.project(x, f"p{n}", (WIDTH,))
        builder.project(x, f"dead{n}_a", (WIDTH,))
        builder.project(x, f"dead{n}_b", (WIDTH,))
        x = builder.op(f"add{n}", Sum((WIDTH,)), x, y)
    builder.graph.outputs = [x]
    graph = dead_code(builder.graph)
    assert names(graph) == ["x", *(f"{kind}{n}" for n in range(12) for kind in ("p", "add"))]
    assert ordered(graph)


def test_dead_code_reaches_into_loops():
    builder, x = small()

    def fill(body, start):
        body.project(start, "dead", (3,))
        return body.project(start, "alive", (WIDTH,))

    builder.graph.outputs = [builder.stage("stages.0", 2, True, x, fill)]
    graph = dead_code(builder.graph)
    (loop,) = (operation for _, operation, _ in operations(graph) if isinstance(operation, Loop))
    assert list(loop.body.weights) == ["alive"]


def test_dead_code_takes_from_loops_what_they_do_not_read_and_goes_for_its_maker():
    builder, x = small()
    far, near = (builder.project(x, name, (WIDTH,)) for name in ("far", "near"))

    def outer(body, start):
        inner = body.stage("inner", 2, True, start, lambda b, y: reading(b, y, far, unread=near))
        return reading(body, inner, near, unread=far)

    def reading(body, start, value, unread):
        body._capture(unread, builder)
        return body.op("add", Sum((WIDTH,)), start, body._capture(value, builder))

    builder.graph.outputs = [builder.stage("stages.0", 2, True, x, outer)]
    (inner,) = (body for body, place in graphs(builder.graph) if len(place.loops) == 2)
    assert inner.inputs == ["x", "near", "far"]
    graph = dead_code(builder.graph)
    assert [names(body) for body, _ in graphs(graph)] == [
        ["x", "far", "near", "stages.0"],
        ["x", "near", "far", "inner", "add"],
        ["x", "far", "add"],
    ]
    # the innermost reader of `far` gone, it is not made
    (inner,) = (body for body, place in graphs(graph) if len(place.loops) == 2)
    inner.outputs = [Value("x")]
    inner.remove_node("add")
    graph = dead_code(graph)
    assert [names(body) for body, _ in graphs(graph)][:2] == [
        ["x", "near", "stages.0"],
        ["x", "near", "inner", "add"],
    ]
    assert list(graph.weights) == ["near"]
    assert ordered(graph)


@samples(40)
@given(specs())
def test_dead_code_removes_nothing_from_a_spec(spec):
    """But for what a loop is given and does not read, such as the running state beside a learned query."""

    def computed(graph):
        return [
            [name for name, op, _ in operations(body) if not isinstance(op, Input)]
            for body, _ in graphs(graph)
        ]

    assert computed(dead_code(build(spec))) == computed(build(spec))


# an option that names a node around its stage as another does in it
STARTED = {"recur": 2, "start": "learned", "inject": "add", "step": ["f"]}


@samples(20)
@given(specs())
@example(make(tree({"f": FFN}, {"recur": 3, "step": [STARTED, "f"]})))
def test_every_operation_has_a_place_of_its_own_and_runs_as_often_as_its_row_says(spec):
    seen = Counter()
    for graph in passes(compile_graph(spec)):
        results = {}
        for body, place in graphs(graph):
            path = ".".join(node for node, _ in place.loops)
            for node, operation, data in operations(body):
                name = f"{path}.{node}" if path else node
                assert name not in results
                held = isinstance(operation, (Loop, Input))
                results[name] = 0 if held else place.at(data.active).executions
        seen.update(results)
    rows = [row for row in composer.cost(spec).by_operation if row.operation != "Input"]
    assert rows
    assert all(seen[row.place] == row.executions for row in rows)


# merging


def test_merging_joins_projections_of_one_input_only():
    builder, x = small()
    a, b = builder.project(x, "a", (2, 3)), builder.project(x, "b", (5,))
    c = builder.project(a, "c", (4,), 6)
    builder.graph.outputs = [b, c, a]
    graph = merge_projections(builder.graph)
    assert names(graph) == ["x", "a", "c"]
    assert graph.node("a").op == Project(WIDTH, ((2, 3), (5,)))
    assert graph.node("a").weights == ("a", "b")
    assert graph.outputs == [("a", 1), ("c", 0), ("a", 0)]
    assert list(graph.weights) == ["a", "b", "c"]


def unmerged(monkeypatch):
    monkeypatch.setattr(composer.graph.compile, "merge_projections", lambda graph, apart: graph)


@pytest.mark.parametrize("case", ["dreamer", "parallel, gate", "prelude, core, coda, untied", "three levels"])
def test_merging_keeps_the_function_and_the_names(case, monkeypatch):
    merged = compiled(CASES[case])
    unmerged(monkeypatch)
    plain = compiled(CASES[case], shaken=1)
    assert len(list(merged.code.plain.graph.nodes)) <= len(list(plain.code.plain.graph.nodes))
    assert list(merged.state_dict()) == list(plain.state_dict())
    plain.load_state_dict(merged.state_dict())
    tokens = tokens_for(merged.spec, 3, 5)
    close({"y": merged(tokens)}, {"y": plain(tokens)})
    close(gradients(merged, tokens), gradients(plain, tokens), 1e-4)


@samples(40)
@given(specs())
def test_after_merging_no_two_projections_read_the_same(spec):
    for graph, _ in graphs(compile_graph(spec)):
        read = [(data.inputs[0], op.bias) for _, op, data in operations(graph) if isinstance(op, Project)]
        assert len(read) == len(set(read))
        assert ordered(graph)


def test_merged_shares_are_told_apart_by_block():
    blocks = {"s": SEQ, "f": FFN}
    apart = composer.cost(make(tree(blocks, {"recur": 2, "step": [{"parallel": ["s", "f"]}]})))
    only = composer.cost(make(tree({"f": FFN}, {"recur": 2, "step": ["f"]})))
    assert apart.by_block["f"] == only.by_block["f"]


# shapes


def test_shapes_that_do_not_fit_are_refused():
    builder, x = small()
    builder.op("add", Sum((5,)), x, x)
    with pytest.raises(ValueError, match=r"Sum: expected inputs \(5, 5\), got \(8 stream, 8 stream\)"):
        infer_types(builder.graph)


def test_shapes_that_do_not_fit_inside_a_loop_are_refused():
    builder, x = small()
    builder.stage("stages.0", 2, True, x, lambda body, start: body.norm(start, "norm", (5,)))
    with pytest.raises(ValueError, match="Norm: expected inputs"):
        infer_types(builder.graph)


def test_a_weight_of_another_shape_is_refused():
    builder, x = small()
    builder.op("norm", Norm((WIDTH,)), x, weights=[Weight("gain", (5,), Init("constant"))])
    with pytest.raises(ValueError, match=r"norm: weights are \(\(5,\),\), expected \(\(8,\),\)"):
        infer_types(builder.graph)


def test_a_missing_input_is_refused():
    builder, x = small()
    builder.op("add", Sum((WIDTH,)), x)
    with pytest.raises(ValueError, match="expected inputs"):
        infer_types(builder.graph)


@samples(15)
@given(specs(room=3, levels=2))
def test_inferred_shapes_are_those_of_the_tensors(spec):
    """Run the emitted code node by node, and compare every tensor with its declared shape."""
    model = composer.compile(spec)
    seen = []

    class Interpreter(torch.fx.Interpreter):
        def run_node(self, node):
            result = super().run_node(node)
            if node.op == "call_function" and isinstance(result, torch.Tensor):
                seen.append((node.name, tuple(result.shape)))
            return result

    shapes = {
        (2, 3, *type.shape)
        for graph, _ in graphs(model.graph)
        for _, op, data in operations(graph)
        for type in data.types
        if not isinstance(op, Input) and type.kind == "token"
    }
    for module in model.modules():
        if type(module).__name__ == "Stage":
            for each in getattr(module.code, "codes", [module.code]):
                code = each.plain
                code.forward = lambda *values, code=code: Interpreter(code).run(*values)
    model(tokens_for(spec, 2, 3))
    made = {shape for _, shape in seen if len(shape) > 2 and shape[:2] == (2, 3)}
    assert made
    assert made <= shapes


# ties


def test_a_tied_weight_disappears_and_its_user_reads_the_other():
    builder, x = small()
    a = builder.project(x, "a", (4,))
    builder.graph.outputs = [a, builder.project(x, "b", (4,))]
    builder.graph.ties["b"] = "a"
    graph = tie_weights(builder.graph)
    assert list(graph.weights) == ["a"]
    assert graph.node("b").weights == ("a",)


def test_a_tie_of_unequal_shapes_is_refused():
    builder, x = small()
    builder.project(x, "a", (4,))
    builder.project(x, "b", (5,))
    builder.graph.ties["b"] = "a"
    with pytest.raises(ValueError, match=r"b \(5, 8\) is tied to a \(4, 8\)"):
        tie_weights(builder.graph)


# kernels


def chosen(spec, target=None, kernels="auto"):
    graph = choose_kernels(compile_graph(spec), target or Target(), kernels)
    return {
        f"{'.'.join(loop[0] for loop in place.loops)}.{node}": data.choice
        for body, place in graphs(graph)
        for node, _, data in operations(body)
        if data.choice
    }


def test_the_first_kernel_that_fits_is_chosen_and_says_why():
    fits, odd = (
        chosen(make(tree({"e": {**EXPERT, "hidden": hidden}}, {"recur": 2, "step": ["e"]}, width=16)))
        for hidden in (8, 7)
    )
    assert fits["stages.0.0.e.experts"].kernel.name == "grouped_mm"
    assert odd["stages.0.0.e.experts"].kernel.name == "experts_plain"
    assert "not grouped_mm: width or hidden is no multiple of 8" in odd["stages.0.0.e.experts"].why


def test_a_window_takes_the_masked_kernel_and_says_why():
    for block, name, reason in (
        (SEQ, "sdpa", ""),
        ({**SEQ, "window": 3}, "sdpa_masked", "not flash_window: needs a GPU"),
    ):
        choice = chosen(make(tree({"s": block}, {"recur": 2, "step": ["s"]})))["stages.0.0.s.attend"]
        assert choice.kernel.name == name
        assert reason in choice.why


@samples(40)
@given(specs())
def test_reference_takes_the_last_kernel_everywhere_and_every_choice_says_why(spec):
    for kernels in ("auto", "reference"):
        graph = compile_graph(spec, kernels=kernels)
        for body, _ in graphs(graph):
            for _, operation, data in operations(body):
                if isinstance(operation, (Loop, Input)):
                    continue
                kernel, why = data.choice
                assert kernel.why
                assert kernel.why in why
                assert kernel in operation.kernels
                if kernels == "reference":
                    assert kernel == operation.kernels[-1]


# plan


@samples(40)
@given(specs())
def test_the_plan_prints_every_operation_once_in_order(spec):
    graph = compile_graph(spec)

    def expected(graph, depth):
        for node, operation, data in operations(graph):
            if isinstance(operation, Loop):
                yield depth, f"{node}: {operation.describe()}", "loop"
                yield from expected(operation.body, depth + 1)
            elif not isinstance(operation, Input):
                yield depth, node, data.kernel.name

    assert [(line.depth, line.operation, line.kernel) for line in plan_lines(graph)] == list(
        expected(graph, 0)
    )
    text = make_plan(spec).text.splitlines()
    if graph.second is not None:
        assert text.pop().startswith("then a second pass")
    assert len(text) == 1 + len(list(plan_lines(graph)))
    for printed, line in zip(text[1:], plan_lines(graph), strict=True):
        assert printed.startswith("  " * line.depth + line.operation)
        assert line.kernel in printed
        assert printed.endswith(line.why or line.kernel)


def test_the_plan_prints_every_weight():
    text = make_plan(make(DREAMER)).text
    for weight in ("query, key, value 30x10", "out 10x18", "keys 5x10", "gate_up 5x10x14", "down 5x7x10"):
        assert weight in text


def test_the_plan_says_which_kernels_are_references():
    assert "attend_plain" in make_plan(make(DREAMER), kernels="reference").text
    assert "attend_plain" not in make_plan(make(DREAMER)).text
