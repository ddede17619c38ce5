"""Fusing changes who does the work, never what a graph computes; where no kernel fits, nothing changes."""

from dataclasses import dataclass, replace

import pytest
import torch
from cases import CASES, DREAMER
from models import close, compiled, gradients, tokens_for
from strategies import make

from blocks.base.builder import Builder
from blocks.ir.costs import SavesNothing
from blocks.ir.kernel import Kernel, Target
from blocks.ir.operation import Operation, Value
from blocks.ir.tensor_type import TensorType
from blocks.ir.walk import graphs, operations
from blocks.primitives.operations import Norm, Project, Sum
from composer.graph.compile import compile_graph
from composer.graph.lowering.build import build
from composer.graph.passes.dead_code import dead_code
from composer.graph.passes.fuse import fuse
from composer.graph.passes.infer_types import infer_types
from composer.graph.passes.mark_recompute import mark_recompute, recomputable, recomputed
from composer.graph.passes.merge_projections import merge_projections
from composer.graph.passes.number_slots import number_slots
from composer.graph.passes.tie_weights import tie_weights
from composer.module.model import ComposedModel

WIDTH = 8


def toy(a, b, gain):
    """The sum and its norm, in that order."""
    total = a + b
    return torch.nn.functional.rms_norm(total, gain.shape, gain, 1e-6), total


def toy_alone(a, b, gain):
    return toy(a, b, gain)[0]


def on_cpu(operation, target):
    return "" if target.device == "cpu" else "it is a toy"


@dataclass(frozen=True)
class Toy(SavesNothing, Operation):
    """norm(a + b), and a + b where others read it too."""

    shape: tuple[int, ...]
    shared: bool
    narrow: bool = False

    @property
    def kernels(self):
        name = "toy" if self.shared else "toy_alone"
        return (
            Kernel(name, f"{__name__}:{name}", "a toy", on_cpu),
            Kernel("reference", f"{__name__}:{name}", "a toy that fits"),
        )

    def types(self, inputs):
        return (TensorType(self.shape),) * (2 if self.shared else 1)

    def weight_shapes(self):
        return (self.shape[-1:],)

    def cast_output(self):
        return replace(self, narrow=True)


def takes_sums(self, position, producer, shared):
    return Toy(self.shape, shared) if isinstance(producer, Sum) and producer.terms == 2 else None


@pytest.fixture
def toys(monkeypatch):
    monkeypatch.setattr(Norm, "absorb", takes_sums)


def unfused(spec):
    return infer_types(dead_code(merge_projections(tie_weights(number_slots(build(spec))))))


def listed(graph):
    """Every operation of a graph with what it reads and owns."""
    return [
        (node, operation.describe(), data.inputs, data.weights, data.types, data.blocks)
        for body, _ in graphs(graph)
        for node, operation, data in operations(body)
    ]


def chain(*readers):
    """x -> (a, b) -> sum -> norm, with other readers of the sum; unfused."""
    builder = Builder(WIDTH)
    x = builder.input("x", TensorType((WIDTH,)))
    a, b = builder.project(x, "a", (WIDTH,)), builder.project(x, "b", (WIDTH,))
    total = builder.op("sum", Sum((WIDTH,)), a, b)
    outputs = [builder.project(total, name, (WIDTH,)) for name in readers if name.startswith("early")]
    normed = builder.norm(total, "norm", (WIDTH,))
    outputs.append(builder.project(normed, "out", (WIDTH,)))
    outputs += [builder.project(total, name, (WIDTH,)) for name in readers if name.startswith("late")]
    if "returned" in readers:
        outputs.append(total)
    builder.graph.outputs = outputs
    return infer_types(builder.graph)


@pytest.mark.parametrize("target", [Target(), Target("cpu", "bfloat16"), Target("cpu", here=True)])
def test_on_a_cpu_todays_graphs_stay_as_they_are(target):
    for case in CASES.values():
        spec = make(case)
        plain = unfused(spec)
        assert listed(compile_graph(spec, target)) == listed(unfused(spec))
        fused = fuse(plain, target)
        assert listed(fused) == listed(unfused(spec))
        assert not any(data.parts for body, _ in graphs(fused) for _, _, data in operations(body))


def test_one_takes_over_what_it_alone_reads(toys):
    graph = fuse(chain(), Target())
    assert [*graph] == ["x", "a", "b", "norm", "out"]
    data = graph.node("norm")
    assert data.op == Toy((WIDTH,), shared=False)
    assert data.inputs == (Value("a"), Value("b"))
    assert data.weights == ("norm",)
    assert data.types == (TensorType((WIDTH,)),)
    assert {name: type(part) for name, part in data.parts.items()} == {"sum": Sum, "norm": Norm}
    assert {*graph.predecessors("norm")} == {"a", "b"}


def test_what_others_read_is_returned_after_its_own(toys):
    graph = fuse(chain("late", "returned"), Target())
    assert [*graph] == ["x", "a", "b", "norm", "out", "late"]
    assert graph.node("norm").types == (TensorType((WIDTH,)),) * 2
    assert graph.node("out").inputs == (Value("norm", 0),)
    assert graph.node("late").inputs == (Value("norm", 1),)
    assert graph.outputs == [Value("out"), Value("late"), Value("norm", 1)]


def test_what_others_read_before_it_is_left(toys):
    assert listed(fuse(chain("early"), Target())) == listed(chain("early"))


def test_one_that_returns_its_own_alone_leaves_the_others_theirs(monkeypatch):
    monkeypatch.setattr(Norm, "absorb", lambda self, position, producer, shared: Toy(self.shape, False))
    graph = fuse(chain("early", "returned"), Target())
    assert [*graph] == ["x", "a", "b", "sum", "early", "norm", "out"]
    assert graph.node("norm").inputs == (Value("a"), Value("b"))
    assert graph.node("early").inputs == (Value("sum"),)
    assert graph.outputs[-1] == Value("sum")


def test_nothing_is_fused_where_the_first_kernel_does_not_fit_or_references_are_asked_for(toys):
    assert listed(fuse(chain(), Target("cuda"))) == listed(chain())
    assert listed(fuse(chain(), Target(), "reference")) == listed(chain())


def test_a_kernel_that_fails_its_self_test_fuses_nothing(toys, monkeypatch):
    kernel = Kernel("failing_toy", f"{__name__}:toy", "a toy", check=f"{__name__}:missing")
    monkeypatch.setattr(Toy, "kernels", (kernel,))
    with pytest.warns(UserWarning, match="failing_toy is not used"):
        assert listed(fuse(chain(), Target(here=True))) == listed(chain())


def test_only_what_one_product_reads_is_narrowed_and_not_in_fp32(toys):
    def narrow(graph, target):
        return fuse(graph, target).node("norm").op.narrow

    assert narrow(chain("late"), Target("cpu", "bfloat16"))
    assert not narrow(chain(), Target())
    twice = chain()
    twice.put("more", twice.node("out"))
    assert not narrow(twice, Target("cpu", "bfloat16"))
    returned = chain()
    returned.outputs.append(Value("norm"))
    assert not narrow(returned, Target("cpu", "bfloat16"))


def test_a_mark_of_any_part_is_honoured(toys):
    graph = fuse(chain("late"), Target())
    assert {"sum", "norm"} <= {*recomputable(graph)}
    for chosen in (["sum", "norm"], ["sum"], ["norm"]):
        assert [*recomputed(mark_recompute(graph, chosen))] == ["sum", "norm"]
    assert [*recomputed(mark_recompute(graph, []))] == []
    assert not {"sum", "norm"} & {*recomputable(fuse(chain("returned"), Target()))}
    with pytest.raises(ValueError, match="got 'nothing'"):
        mark_recompute(graph, ["nothing"])


def test_several_outputs_of_one_product_are_read_as_before(toys):
    graph = fuse(infer_types(merge_projections(chain())), Target())
    assert graph.node("a").op == Project(WIDTH, ((WIDTH,), (WIDTH,)))
    assert graph.node("norm").inputs == (Value("a", 0), Value("a", 1))


@pytest.mark.parametrize("again", [False, True])
def test_a_model_of_fused_operations_is_the_same_model(toys, again):
    spec = make(DREAMER)
    plain = compiled(spec, "reference")
    fused = ComposedModel(spec, recompute=[*recomputable(compile_graph(spec))] if again else [])
    fused.load_state_dict(plain.state_dict())
    results = [data for body, _ in graphs(fused.graph) for _, _, data in operations(body) if data.parts]
    # two in each step; the sum that ends it goes to the next one
    assert [type(data.op) for data in results] == [Toy, Toy]
    assert all(data.recompute == again for data in results)
    tokens = tokens_for(spec)
    torch.testing.assert_close(fused(tokens), plain(tokens))
    close(gradients(fused, tokens), gradients(plain, tokens))
