"""Costs of each operation of a spec as formulas over its field names.

The formulas are the ones that costs are counted with: the spec is lowered with traced numbers, and the costs
of its operations are written as sums of products with common factors in front.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from functools import reduce
from math import gcd, lcm
from typing import Any, NamedTuple, TypeAlias

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

Product: TypeAlias = tuple[tuple[str, int], ...]
"""Factors with their powers, in order of their names."""

Sum: TypeAlias = dict[Product, Fraction]
"""Products with their coefficients."""


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
    return _written(_sum(number))


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


def _sum(value: Any) -> Sum:
    if type(value) is not Traced:
        return {(): Fraction(value)} if value else {}
    if value.op == "leaf":
        return {((value.args[0], 1),): Fraction(1)}
    parts = [_sum(arg) for arg in value.args]
    found = _RULES[value.op](*parts) if value.op in _RULES else None
    return _called(value.op, parts) if found is None else found


def _called(op: str, parts: list[Sum]) -> Sum:
    """Treat an expression that is not a sum of products as a single factor."""
    called = f"{op}({', '.join(map(_written, parts))})"
    named = called if op.isalpha() else f"({f' {op} '.join(map(_operand, parts))})"
    return {((named, 1),): Fraction(1)}


def _operand(part: Sum) -> str:
    """Format an operand, in parentheses where its operator binds less tightly than the one around it."""
    text = _written(part)
    alone = text.isdecimal() or part == {((text, 1),): 1}
    return text if alone else f"({text})"


def _add(a: Sum, b: Sum) -> Sum:
    found = {product: a.get(product, Fraction()) + b.get(product, Fraction()) for product in {**a, **b}}
    return {product: factor for product, factor in found.items() if factor}


def _times(a: Sum, b: Sum) -> Sum:
    return reduce(_add, ({_joint(x, y): f * g} for x, f in a.items() for y, g in b.items()), {})


def _joint(a: Product, b: Product) -> Product:
    powers = dict(a)
    for name, power in b:
        powers[name] = powers.get(name, 0) + power
    return tuple(sorted((name, power) for name, power in powers.items() if power))


def _over(a: Sum, b: Sum) -> Sum | None:
    if len(b) != 1:
        return None
    ((product, factor),) = b.items()
    return _times(a, {tuple((name, -power) for name, power in product): 1 / factor})


def _whole(a: Sum | None) -> Sum | None:
    """Return the sum if it is an integer for all field values."""
    good = a is not None and all(
        factor.denominator == 1 and all(power > 0 for _, power in product) for product, factor in a.items()
    )
    return a if good else None


def _power(a: Sum, b: Sum) -> Sum | None:
    exponent = b.get((), Fraction()) if set(b) <= {()} else None
    if exponent is None or exponent.denominator != 1 or not 0 <= exponent < 9:
        return None
    one: Sum = {(): Fraction(1)}
    return reduce(_times, [a] * int(exponent), one)


def _one(*parts: Sum) -> Sum | None:
    """A maximum over equal values is any one of them."""
    return parts[0] if all(part == parts[0] for part in parts) else None


_RULES: dict[str, Callable[..., Sum | None]] = {
    "+": _add,
    "-": lambda a, b: _add(a, _times(b, {(): Fraction(-1)})),
    "neg": lambda a: _times(a, {(): Fraction(-1)}),
    "*": _times,
    "/": _over,
    "//": lambda a, b: _whole(_over(a, b)),
    "**": _power,
    "round": _whole,
    "max": _one,
    "min": _one,
}


def _written(found: Sum) -> str:
    if not found:
        return "0"
    used = {name for product in found for name, _ in product}
    common = {name: min(dict(product).get(name, 0) for product in found) for name in used}
    over = lcm(*(factor.denominator for factor in found.values()))
    factor = Fraction(gcd(*(int(each * over) for each in found.values())), over)
    rest = _times(found, {tuple((name, -power) for name, power in common.items()): 1 / factor})
    above = [str(factor.numerator)] if factor.numerator != 1 else []
    above += [_raised(name, power) for name, power in sorted(common.items()) if power > 0]
    below = [str(factor.denominator)] if factor.denominator != 1 else []
    below += [_raised(name, -power) for name, power in sorted(common.items()) if power < 0]
    if rest != {(): 1}:
        terms = _terms(rest)
        above.append(f"({terms})" if above or below else terms)
    numerator = " * ".join(above) or "1"
    return (
        f"{numerator} / {below[0] if len(below) == 1 else '(' + ' * '.join(below) + ')'}"
        if below
        else numerator
    )


def _terms(found: Sum) -> str:
    # what is added before what is taken away, high powers first
    ordered = sorted(
        found.items(), key=lambda item: (item[1] < 0, -sum(power for _, power in item[0]), item[0])
    )
    text = ""
    for product, factor in ordered:
        factors = [_raised(name, power) for name, power in product]
        size = [str(abs(factor))] if abs(factor) != 1 or not factors else []
        sign = " - " if factor < 0 else " + "
        text += (sign if text else sign.strip(" +")) + " * ".join([*size, *factors])
    return text


def _raised(name: str, power: int) -> str:
    return name if power == 1 else f"{name}**{power}"
