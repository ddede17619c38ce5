import re

import pytest
from cases import DREAMER
from models import make

from blocks.base.builder import Builder
from blocks.expert_attention.operations import Experts
from blocks.ir.tensor_type import IDS, ORDER, TensorType, widest
from blocks.ir.walk import graphs, operations
from blocks.primitives.operations import Input, RotateStep, SequenceTable, Sum
from composer.graph.compile import compile_graph
from composer.graph.passes.infer_types import infer_types

STREAM = TensorType((8,), "stream")
TABLE = SequenceTable(8, 1e4).types([])[0]
PAIR = TensorType((2,))


def start():
    builder = Builder(8)
    return builder, builder.input("x", STREAM)


def test_a_sum_has_the_widest_precision_of_its_terms():
    builder, x = start()
    y = builder.project(x, "y", (8,))
    both, narrow = (builder.op("sum", Sum((8,)), *terms) for terms in ((x, y), (y, y)))
    graph = infer_types(builder.graph)
    assert [graph.type_of(value).element for value in (y, both, narrow)] == ["compute", "stream", "compute"]
    assert widest("compute", TensorType((), "fp32"), "stream") == "fp32"


@pytest.mark.parametrize(
    ("operation", "given", "message"),
    [
        (Experts(8, 4, 2, 8), (STREAM, PAIR, PAIR), "expected inputs (8, 2, 2 int)"),
        (Sum(()), (IDS, IDS), "got (int, int)"),
        (Sum(()), (ORDER, ORDER), "got (order, order)"),
        (RotateStep((1, 8)), (TensorType((1, 8)), TABLE), "got (1x8 compute, 8 fp32 table)"),
    ],
)
def test_values_of_the_right_shape_and_another_kind_are_refused(operation, given, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        operation.types(given)


def test_a_step_that_returns_another_type_than_it_is_given_is_refused():
    builder, x = start()
    builder.stage("stages.0", 2, True, x, lambda body, state: body.project(state, "y", (8,)))
    with pytest.raises(ValueError, match=r"stages\.0: a step returns 8 compute where it is given 8 stream"):
        infer_types(builder.graph)


def test_every_value_of_a_model_has_the_type_that_is_read():
    graph = compile_graph(make(DREAMER))
    for body, _ in graphs(graph):
        for _, operation, node in operations(body):
            assert len(node.types) >= 1
            if not isinstance(operation, Input):
                assert operation.types([body.type_of(value) for value in node.inputs]) == node.types
    kinds = {type.kind for body, _ in graphs(graph) for _, _, node in operations(body) for type in node.types}
    assert kinds == {"token", "table", "constant", "depth_cache", "scalar", "order"}
