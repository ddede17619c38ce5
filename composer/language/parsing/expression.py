"""`${...}`: names, numbers, + - * //, parentheses. Parsed here, never evaluated as code."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import lru_cache
from typing import TypeAlias

from blocks.base.fields import parse_quantity
from composer.settings.errors import shown

Number: TypeAlias = int | float
Lookup: TypeAlias = Callable[[str], object]
Term: TypeAlias = Callable[[Lookup], object]

REFERENCE = re.compile(r"\$\$\{|\$\{([^{}]*)\}")
"""One `${...}`, or `$${`, which stands for the text `${`."""

_TOKEN = re.compile(r"\s*(?:([0-9]+(?:\.[0-9]+)?)|([A-Za-z_][A-Za-z0-9_]*)|(//|[-+*()]))")
_LONGEST = 200
_DEPTH = 20
_LARGEST = 10**18


class ExpressionError(ValueError):
    """An expression that cannot be parsed or evaluated; `expected` describes valid input."""

    def __init__(self, expected: str, got: str, hint: str = "") -> None:
        super().__init__(expected)
        self.expected, self.got, self.hint = expected, got, hint


@lru_cache(maxsize=1024)
def parse(text: str) -> Term:
    """Parse an expression into a function of the names' values.

    Raises:
        ExpressionError: here for what cannot be read, in the call for what cannot be worked out.
    """
    if len(text) > _LONGEST:
        raise ExpressionError(f"at most {_LONGEST} characters", str(len(text)))
    tokens: list[str] = []
    at = 0
    text = text.rstrip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise ExpressionError("names, numbers and + - * // in ${...}", repr(text[at:].strip()))
        tokens.append(match[0].strip())
        at = match.end()
    parser = _Parser(tokens)
    term = parser.sum()
    if parser.tokens:
        raise ExpressionError("an operator (+ - * //)", repr(parser.tokens[0]))
    return term


class _Parser:
    """A recursive-descent parser over the remaining tokens."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self.depth = 0

    def sum(self) -> Term:
        return self.chain(self.product, ("+", "-"))

    def product(self) -> Term:
        return self.chain(self.unary, ("*", "//"))

    def chain(self, operand: Callable[[], Term], operators: tuple[str, ...]) -> Term:
        left = operand()
        while self.tokens and self.tokens[0] in operators:
            left = _apply(self.tokens.pop(0), left, operand())
        return left

    def unary(self) -> Term:
        negative = False
        while self.tokens and self.tokens[0] == "-":
            self.tokens.pop(0)
            negative = not negative
        atom = self.atom()
        return _apply("*", lambda _: -1, atom) if negative else atom

    def atom(self) -> Term:
        token = self.tokens.pop(0) if self.tokens else ""
        if token == "(":
            self.depth += 1
            if self.depth > _DEPTH:
                raise ExpressionError(f"at most {_DEPTH} levels of parentheses", "more")
            inner = self.sum()
            if not self.tokens or self.tokens.pop(0) != ")":
                raise ExpressionError("a closing parenthesis", "none")
            self.depth -= 1
            return inner
        if token[:1].isdigit():
            value: Number = float(token) if "." in token else int(token)
            return lambda _: value
        if token.isidentifier():
            return lambda lookup: lookup(token)
        raise ExpressionError("a name or number", repr(token) if token else "nothing")


def _apply(operator: str, left: Term, right: Term) -> Term:
    def term(lookup: Lookup) -> Number:
        a, b = _number(left(lookup), operator), _number(right(lookup), operator)
        match operator:
            case "+":
                result = a + b
            case "-":
                result = a - b
            case "*":
                result = a * b
            case _:
                if b == 0:
                    raise ExpressionError("a divisor other than 0", f"{a} // {b}")
                result = a // b
        if abs(result) > _LARGEST or not math.isfinite(result):
            raise ExpressionError("a result up to 1e18", f"{a} {operator} {b}")
        return result

    return term


def _number(value: object, operator: str) -> Number:
    if isinstance(value, str):
        try:
            return parse_quantity(value, byte=True)
        except ValueError:
            pass
    elif isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST:
        return value
    raise ExpressionError(f"a number for {operator}", shown(value))
