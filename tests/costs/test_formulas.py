"""Formulas: what is written for people is what is counted."""

import sys
from math import ceil, floor, prod, sqrt
from operator import mod
from pathlib import Path

import pytest
from cases import CASES, DREAMER, FFN, tree
from strategies import make

from blocks.ir.costs import CostContext
from blocks.ir.graph import Loop
from blocks.ir.traced import Trace
from blocks.ir.walk import graphs, operations
from blocks.primitives.operations import Input
from composer.graph.compile import compile_graph
from composer.graph.passes.active_steps import costed
from composer.language.schema.template import split

sys.path.insert(0, str(Path(__file__).parents[2] / "docs"))

from formulas import formulas, names, written

CALLS = {"min": min, "max": max, "ceil": ceil, "floor": floor, "round": round, "sqrt": sqrt, "mod": mod}


def counted(spec):
    """What is not 0 among the costs of each operation that training runs, in order."""
    for body, place in graphs(costed(compile_graph(spec))):
        at = CostContext(spec.model.context, place.trips)
        for _, operation, data in operations(body):
            if isinstance(operation, Loop | Input):
                continue
            held = [body.weights[name] for name in data.weights]
            sizes = [(prod(weight.shape), weight.active) for weight in held if weight.trained]
            params = sum(size for size, _ in sizes)
            active = sum(size * used // of for size, (used, of) in sizes)
            costs = [
                operation.flops(at),
                operation.backward_flops(at),
                params,
                active,
                operation.saved(at).extra,
            ]
            yield from filter(None, costs)


@pytest.mark.parametrize("name", CASES)
def test_every_formula_comes_to_what_is_counted(name):
    case = CASES[name]
    values = dict(zip(names(case), split(case)[1], strict=True)) | {"stream_bytes": 4, "compute_bytes": 4}
    results = [eval(formula.text, CALLS, values) for formula in formulas(case)]
    assert list(filter(None, results)) == pytest.approx(list(counted(make(case))), rel=1e-12)


def test_fields_are_called_by_their_keys_as_long_as_that_tells_them_apart():
    assert names(tree({"f": FFN}, {"recur": 2, "step": ["f"]})) == [
        *("schema", "width", "vocab", "context", "hidden", "steps")
    ]
    assert names(DREAMER)[4:8] == ["seq_heads", "seq_kv_heads", "seq_head_dim", "depth_heads"]


def test_formulas_read_as_one_would_write_them():
    case = tree({"d": {"type": "depth_attention", "heads": 3, "head_dim": 6}}, {"recur": 3, "step": ["d"]})
    by_name = {formula[1:3]: formula.text for formula in formulas(case) if formula.block}
    assert by_name["attend", "forward"] == "2 * head_dim * heads * (steps + 1)"
    assert by_name["out", "backward"] == "4 * head_dim * heads * width"


@pytest.mark.parametrize(
    ("make_number", "text"),
    [
        (lambda a, b: a - a, "0"),
        (lambda a, b: a * b - b * (a - 1), "b"),
        (lambda a, b: a / (2 * b) - 3 * a, "a * (1 - 6 * b) / (2 * b)"),
        (lambda a, b: 6 * a * b // (2 * b), "3 * a"),
        (lambda a, b: round(a / b) + round(2 * a), "2 * a + round(a / b)"),
        (lambda a, b: 3 * (a % b) + a // 5, "3 * (mod(a, b)) + floor(a / 5)"),
        (lambda a, b: 2**a * b, "2**a * b"),
    ],
)
def test_numbers_are_simplified_and_keep_their_value(make_number, text):
    trace = Trace()
    number = make_number(trace.leaf("a", 12), trace.leaf("b", 4))
    assert written(number) == text
    assert eval(text, CALLS, {"a": 12, "b": 4}) == number.value
