"""Generates a Python function from a trace: guards first, then the same arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from blocks.ir.traced import FUNCTIONS, Number, Trace, Traced

Compiled: TypeAlias = Callable[[Sequence[Number]], dict[str, Number] | None]

_PRECEDENCE = {"<": 1, "<=": 1, ">": 1, ">=": 1, "==": 1, "!=": 1}
_PRECEDENCE |= {"+": 2, "-": 2, "*": 3, "/": 3, "//": 3, "%": 3, "neg": 4, "**": 5}
_ATOM = 9
_DEEPEST = 20


class _Text(NamedTuple):
    """An expression as text, with its operator precedence and its depth of nesting."""

    text: str
    precedence: int = _ATOM
    depth: int = 0

    def within(self, precedence: int) -> str:
        return self.text if self.precedence >= precedence else f"({self.text})"


def compiled(trace: Trace, leaves: Sequence[Traced], results: Mapping[str, Any]) -> Compiled:
    """Return a function of the leaves' numbers, in order, that returns `results`, or None if a guard fails.

    It computes exactly what was traced, operation by operation; ArithmeticError passes through.
    """
    namespace: dict[str, Any] = {"inf": math.inf, "nan": math.nan, **FUNCTIONS}
    exec(compile(source(trace, leaves, results), "<trace>", "exec"), namespace)
    function: Compiled = namespace["run"]
    return function


def source(trace: Trace, leaves: Sequence[Traced], results: Mapping[str, Any]) -> str:
    """Return the function's code."""
    writer = _Writer(leaves)
    guards = list(trace.guards.values())
    asked = [guard for guard, _ in guards]
    writer.count([*asked, *results.values()])
    for guard, outcome in guards:
        condition = writer.written(guard)
        if isinstance(outcome, bool):
            writer.lines.append(
                f"if {f'not {condition.within(1)}' if outcome else condition.text}: return None"
            )
        else:
            writer.lines.append(f"if {condition.within(2)} != {_plain(outcome).text}: return None")
    named = ", ".join(f"{name!r}: {writer.written(value).text}" for name, value in results.items())
    body = "".join(f"    {line}\n" for line in [*writer.lines, f"return {{{named}}}"])
    names = "".join(f"a{n}, " for n in range(len(leaves)))
    return f"def run(numbers):\n    {names}= numbers\n{body}"


class _Writer:
    """Writes expressions as lines; shared or deeply nested ones get a variable."""

    def __init__(self, leaves: Iterable[Traced]) -> None:
        self.lines: list[str] = []
        self._uses: dict[int, int] = {}
        self._texts = {id(leaf): _Text(f"a{n}") for n, leaf in enumerate(leaves)}

    def count(self, roots: Iterable[Any]) -> None:
        """Count how often each expression below is used."""
        waiting = [root for root in roots if type(root) is Traced]
        while waiting:
            node = waiting.pop()
            self._uses[id(node)] = self._uses.get(id(node), 0) + 1
            if self._uses[id(node)] == 1:
                waiting += _operands(node)

    def written(self, root: Any) -> _Text:
        """Return the text of an expression, after writing the lines it depends on."""
        if type(root) is not Traced:
            return _plain(root)
        # without recursion, since a sum can be thousands of expressions deep
        waiting = [root]
        while waiting:
            node = waiting[-1]
            missing = [each for each in _operands(node) if id(each) not in self._texts]
            if id(node) not in self._texts and not missing:
                self._texts[id(node)] = self._made(node)
            if missing:
                waiting += missing
            else:
                waiting.pop()
        return self._texts[id(root)]

    def _made(self, node: Traced) -> _Text:
        text = _applied(node.op, [self._operand(node.op, arg) for arg in node.args])
        if self._uses[id(node)] == 1 and text.depth < _DEEPEST:
            return text
        self.lines.append(f"v{len(self.lines)} = {text.text}")
        return _Text(f"v{len(self.lines) - 1}")

    def _operand(self, op: str, arg: Any) -> _Text:
        if type(arg) is not Traced:
            return _plain(arg)
        text = self._texts[id(arg)]
        # one call for the largest of the largest; both take the first among equals
        if op in ("max", "min") and text.precedence == _ATOM and text.text.startswith(f"{op}("):
            return _Text(text.text[len(op) + 1 : -1], _ATOM, text.depth - 1)
        return text


def _operands(node: Traced) -> Iterator[Traced]:
    return (arg for arg in node.args if type(arg) is Traced)


def _plain(value: Any) -> _Text:
    if isinstance(value, type):
        return _Text(value.__name__)
    return _Text(repr(value), _ATOM if value is None or not value < 0 else 0)


def _applied(op: str, args: list[_Text]) -> _Text:
    depth = 1 + max(arg.depth for arg in args)
    if op == "bool":
        # asked for by guards alone
        return args[0]
    if op not in _PRECEDENCE:
        return _Text(f"{op}({', '.join(arg.text for arg in args)})", _ATOM, depth)
    own = _PRECEDENCE[op]
    if op == "neg":
        return _Text(f"-{args[0].within(own + 1)}", own, depth)
    # what binds as tightly stands on the left without parentheses; powers always have them
    left, right = args[0].within(own + (op == "**")), args[1].within(own + 1)
    return _Text(f"{left} {op} {right}", own, depth)
