"""Costs of each operation of a spec as formulas over its field names, for the documentation.

The formulas are the ones that costs are counted with: the spec is lowered with traced numbers, and sympy
simplifies the costs of its operations.
"""

from __future__ import annotations

import operator
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import sympy

from blocks.ir.costs import CostContext
from blocks.ir.graph import Graph, Loop, Node
from blocks.ir.operation import Operation
from blocks.ir.traced import Trace, Traced
from blocks.ir.walk import graphs, operations
from blocks.primitives.operations import Input
from composer.graph.compile import compile_graph
from composer.graph.passes.active_steps import costed
from composer.language.load import resolve_spec
from composer.language.schema.template import joined, split, traced
from composer.settings.tree import Place, planted

# fields whose names are clear in a formula without a prefix
_NAMES = {"recur": "steps", "stack": "steps"}


class Formula(NamedTuple):
    """One cost of one operation per token and execution.

    Attributes:
        block: the block it belongs to, "" for the model's own; of joined projections the first one's.
        operation: its name within its block; of joined projections all their names.
        quantity: forward or backward (FLOPs), params, active_params, or kept (bytes saved for the backward
            pass inside the operation).
    """

    block: str
    operation: str
    quantity: str
    text: str


def formulas(tree: Mapping[str, Any]) -> Iterator[Formula]:
    """Yield the nonzero costs of a spec's operations; `tree` is the spec as plain data.

    A field has the name of its key, prefixed by the keys above it if that is ambiguous; `recur` and `stack`
    are `steps`. `compute_bytes` and `stream_bytes` are bytes per element inside blocks and of the residual
    stream.
    """
    spec = resolve_spec(planted(tree, Place("<tree>")))
    trace = Trace()
    leaves = map(trace.leaf, names(tree), split(tree)[1])
    spec = traced(spec, joined(tree, leaves))
    sizes = {name: trace.leaf(name, 4) for name in ("stream_bytes", "compute_bytes")}
    for body, place in graphs(costed(compile_graph(spec), spec.model.context)):
        at = CostContext(spec.model.context, place.trips, **sizes)  # type: ignore[arg-type]
        for node, operation, data in operations(body):
            if not isinstance(operation, Loop | Input):
                block = next(iter(data.blocks), "")
                for quantity, value in _costs(body, operation, data, at):
                    if (text := written(value)) != "0":
                        yield Formula(block, _name(node, data), quantity, text)


def written(number: Any) -> str:
    """Write a number, traced or plain, as a formula."""
    return _text(_expression(number, {}))


def _costs(body: Graph, operation: Operation, data: Node, at: CostContext) -> Iterator[tuple[str, Any]]:
    weights = [body.weights[name] for name in data.weights]
    sizes = [(weight.size, *weight.active) for weight in weights if weight.trained]
    yield "forward", operation.flops(at)
    yield "backward", operation.backward_flops(at)
    yield "params", sum(size for size, _, _ in sizes)
    yield "active_params", sum(size * used // of for size, used, of in sizes)
    yield "kept", data.saved(at).extra


def _name(node: str, data: Node) -> str:
    roles = [weight.rpartition(".")[2] for weight in data.weights]
    return ", ".join(roles) if len(roles) > 1 and len(data.blocks) > 1 else node.rpartition(".")[2]


def names(tree: Mapping[str, Any]) -> list[str]:
    """Return the names of a tree's numbers in formulas, in order."""
    paths = list(_paths(tree, ()))
    ends = Counter(path[-length:] for path in paths for length in range(1, 1 + len(path)))
    found = []
    for path in paths:
        length = next(length for length in range(1, 1 + len(path)) if ends[path[-length:]] == 1)
        found.append("_".join(path[-length:]))
    return found


def _paths(tree: Any, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    if type(tree) in (int, float):
        yield path
    elif isinstance(tree, dict):
        for key, child in tree.items():
            yield from _paths(child, (*path, _NAMES.get(key) or key))
    elif isinstance(tree, list | tuple):
        for place, child in enumerate(tree):
            yield from _paths(child, (*path[:-1], f"{path[-1]}{place}"))


def _expression(value: Any, known: dict[int, sympy.Expr]) -> sympy.Expr:
    """Return a traced or plain number as an expression; `known` holds those of the numbers in it."""
    if type(value) is not Traced:
        return sympy.Rational(str(value))
    if id(value) not in known:
        if value.op == "leaf":
            known[id(value)] = sympy.Symbol(value.args[0], integer=True, positive=True)
        else:
            known[id(value)] = _RULES[value.op](*(_expression(arg, known) for arg in value.args))
    return known[id(value)]


def _whole(value: sympy.Expr) -> sympy.Expr:
    """Return a value that is a whole number for all values of the fields, or the name of its rounding."""
    return value if value.is_integer else sympy.Function("round")(value)


_RULES: dict[str, Callable[..., sympy.Expr]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "**": operator.pow,
    "neg": operator.neg,
    "//": lambda a, b: sympy.floor(sympy.expand(a / b)),
    "%": sympy.Mod,
    "round": lambda a: _whole(sympy.expand(a)),
    "floor": sympy.floor,
    "ceil": sympy.ceiling,
    "max": sympy.Max,
    "min": sympy.Min,
    "abs": sympy.Abs,
}


def _text(found: sympy.Expr) -> str:
    """Write an expression with common factors in front, as Python does."""
    text = str(sympy.factor_terms(sympy.together(sympy.expand(found)).cancel()))
    for name, call in (("Max", "max"), ("Min", "min"), ("ceiling", "ceil"), ("Abs", "abs"), ("Mod", "mod")):
        text = text.replace(f"{name}(", f"{call}(")
    return re.sub(r"(?<!\*)([*/])(?!\*)(?<!\*\*)", r" \1 ", text)
