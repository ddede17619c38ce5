"""Traced numbers, which turn a cost formula that ran once into a function of its sizes.

A traced number has a value and an expression over leaves. Arithmetic builds new expressions. Comparisons,
truth tests, hashes and conversions to text use the value and record a guard: the trace is valid for other
leaves if all guards evaluate to the same results.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any, TypeAlias

Number: TypeAlias = int | float

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "max": max,
    "min": min,
    "abs": abs,
    "round": round,
    "trunc": math.trunc,
    "floor": math.floor,
    "ceil": math.ceil,
}
"""The functions that expressions may call, by name."""

_BINARY = {
    "+": ("add", operator.add),
    "-": ("sub", operator.sub),
    "*": ("mul", operator.mul),
    "/": ("truediv", operator.truediv),
    "//": ("floordiv", operator.floordiv),
    "%": ("mod", operator.mod),
    "**": ("pow", operator.pow),
}
_COMPARISONS = {
    "<": ("lt", operator.lt),
    "<=": ("le", operator.le),
    ">": ("gt", operator.gt),
    ">=": ("ge", operator.ge),
    "==": ("eq", operator.eq),
    "!=": ("ne", operator.ne),
}
_APPLY = {
    **{symbol: function for symbol, (_, function) in (_BINARY | _COMPARISONS).items()},
    **FUNCTIONS,
    "neg": operator.neg,
    "bool": bool,
    "type": type,
}
_NEUTRAL = {("*", 1), ("+", 0)}


class Trace:
    """The expressions of one run, without duplicates, and its guards in order.

    Attributes:
        guards: (expression, its result), by the id of the expression.
    """

    def __init__(self) -> None:
        self._made: dict[tuple[Any, ...], Traced] = {}
        self.guards: dict[int, tuple[Traced, Any]] = {}

    def leaf(self, name: str, value: Number) -> Traced:
        """Return a traced number called `name` with the value `value` in this run."""
        return self._expression("leaf", (name,), value)

    def apply(self, op: str, *args: Any) -> Traced:
        """Return the expression that applies an operator or a function to numbers, traced or plain."""
        return self._expression(op, args)

    def guard(self, op: str, *args: Any) -> Any:
        """Return the plain result of an operator on numbers, and record a guard; "" is the number itself."""
        asked = self.apply(op, *args) if op else args[0]
        self.guards.setdefault(id(asked), (asked, asked.value))
        return asked.value

    def _expression(self, op: str, args: tuple[Any, ...], value: Any = None) -> Traced:
        # by type as well, since 2 and 2.0 are equal but behave differently
        key = (op, *(id(arg) if type(arg) is Traced else (type(arg), arg) for arg in args))
        expression = self._made.get(key)
        if expression is None:
            if op != "leaf":
                value = _APPLY[op](*(arg.value if type(arg) is Traced else arg for arg in args))
            expression = self._made[key] = Traced(self, value, op, args)
        return expression


class Traced:
    """A number with the expression it comes from; no subclass of int, whose arithmetic would lose the trace.

    Attributes:
        value: its value in this run.
        op: `leaf`, an operator or the name of a function.
        args: the operands, traced or plain; the name of a leaf.
    """

    __slots__ = ("args", "op", "trace", "value")

    def __init__(self, trace: Trace, value: Any, op: str, args: tuple[Any, ...]) -> None:
        self.trace, self.value, self.op, self.args = trace, value, op, args

    def _type(self) -> Any:
        # a leaf's never changes
        return type(self.value) if self.op == "leaf" else self.trace.guard("type", self)

    # isinstance checks have to see the type of the value
    __class__ = property(_type)

    def __bool__(self) -> bool:
        return bool(self.trace.guard("bool", self))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.trace.guard("", self), name)

    def __copy__(self) -> Traced:
        return self

    def __deepcopy__(self, memo: Any) -> Traced:
        return self

    def __round__(self, digits: Any = None) -> Traced:
        return self.trace.apply("round", self, *([] if digits is None else [digits]))


def is_number(value: object) -> bool:
    """Whether a value is a number that arithmetic may be traced through."""
    return type(value) in (Traced, int, float, bool)


def _operation(symbol: str, reflected: bool) -> Callable[[Traced, Any], Any]:
    def operation(self: Traced, other: Any) -> Any:
        if not is_number(other):
            return NotImplemented
        # whole neutral numbers change neither the value nor its type
        if type(other) in (int, bool) and (symbol, other) in _NEUTRAL:
            return self
        return self.trace.apply(symbol, other, self) if reflected else self.trace.apply(symbol, self, other)

    return operation


def _comparison(symbol: str) -> Callable[[Traced, Any], Any]:
    def comparison(self: Traced, other: Any) -> Any:
        if not is_number(other):
            return NotImplemented
        if other is self:
            return symbol in ("==", "<=", ">=")
        return self.trace.guard(symbol, self, other)

    return comparison


def _unary(op: str) -> Callable[[Traced], Traced]:
    return lambda self: self.trace.apply(op, self)


def _pinned(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, *args: function(self.trace.guard("", self), *args)


def _overload() -> None:
    for symbol, (name, _) in _BINARY.items():
        setattr(Traced, f"__{name}__", _operation(symbol, False))
        setattr(Traced, f"__r{name}__", _operation(symbol, True))
    for symbol, (name, _) in _COMPARISONS.items():
        setattr(Traced, f"__{name}__", _comparison(symbol))
    for name in ("neg", "abs", "trunc", "floor", "ceil"):
        setattr(Traced, f"__{name}__", _unary(name))
    for function in (hash, str, repr, format, int, float, complex, operator.index):
        setattr(Traced, f"__{function.__name__}__", _pinned(function))
    others: dict[str, Callable[..., Any]] = {
        "pos": lambda self: self,
        "divmod": lambda self, other: (self // other, self % other),
        "rdivmod": lambda self, other: (other // self, other % self),
    }
    for name, function in others.items():
        setattr(Traced, f"__{name}__", function)


_overload()
