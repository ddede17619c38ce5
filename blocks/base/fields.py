"""Field types that accept numbers with units: `30M`, `1.2G`, `8GiB`, `4Ki`.

The suffixes k, M, G, T are powers of 1000, Ki, Mi, Gi, Ti powers of 1024; sizes in bytes may end in B. The
result must be a whole number.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from math import floor
from typing import Annotated, Any

from pydantic import Field, GetCoreSchemaHandler, WithJsonSchema
from pydantic_core import CoreSchema, PydanticCustomError
from pydantic_core.core_schema import no_info_after_validator_function, no_info_before_validator_function

_POWERS = {"": 1, **{unit: 1000**n for n, unit in enumerate("kMGT", start=1)}}
_POWERS |= {f"{unit}i": 1024**n for n, unit in enumerate("KMGT", start=1)}
_QUANTITY = re.compile(r"\s*(\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)\s*([kMGT]|[KMGT]i)?(B)?\s*")

_DIGITS = 40
LARGEST = 10**18
"""The largest allowed count or size."""

COUNT_PATTERN = r"^\s*\d+(\.\d+)?([eE][+-]?\d+)?\s*([kMGT]|[KMGT]i)?\s*$"
BYTES_PATTERN = COUNT_PATTERN.replace(r"\s*$", r"B?\s*$")


def parse_quantity(text: str, *, byte: bool = False) -> int:
    """Return the number that `4Ki`, or with `byte` also `8GiB`, stands for.

    Raises:
        ValueError: the text is no such number; the message is what was expected.
    """
    match = _QUANTITY.fullmatch(text)
    if match is None or (match[3] and not byte):
        raise ValueError(f"a {'size such as 8GiB' if byte else 'count such as 64, 4Ki or 30M'}")
    mantissa, _, exponent = match[1].lower().partition("e")
    whole, _, fraction = mantissa.partition(".")
    shift = int(exponent or 0) - len(fraction)
    if len(mantissa) > _DIGITS or abs(shift) > _DIGITS:
        raise ValueError("a number of ordinary size")
    # integer arithmetic, since 1.001 * 1e6 is not a whole number in floating point
    value: int
    value, rest = divmod(
        int(whole + fraction) * _POWERS[match[2] or ""] * 10 ** max(shift, 0), 10 ** max(-shift, 0)
    )
    if rest:
        raise ValueError("a whole number")
    return value


def _count(value: Any) -> Any:
    if isinstance(value, str):
        return parse_quantity(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _bytes(value: Any) -> Any:
    return parse_quantity(value, byte=True) if isinstance(value, str) else _count(value)


def _quantity_schema(pattern: str, minimum: int) -> WithJsonSchema:
    whole = {"type": "integer", "minimum": minimum}
    return WithJsonSchema({"anyOf": [whole, {"type": "string", "pattern": pattern}]})


class _Units:
    """Parses units before a number is validated; whole numbers pass unchanged.

    pydantic inspects the signature of a `BeforeValidator` for each of the many fields that have it.
    """

    def __init__(self, parse: Callable[[Any], Any]) -> None:
        self._parse = parse

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return no_info_before_validator_function(self._parse, handler(source))


_COUNT, _BYTES = UNITS = (_Units(_count), _Units(_bytes))
"""What parses counts, and sizes in bytes."""

Count = Annotated[int, Field(gt=0, le=LARGEST), _COUNT, _quantity_schema(COUNT_PATTERN, 1)]
"""A whole number above 0, units allowed."""


class Aligned:
    """Marks a count for which suggested sizes are multiples of 8, which hardware prefers."""


class Grid:
    """Marks a count that may only be one of some numbers, and numbers them, from 1 on.

    Other values are refused; matching and fitting propose these only, and a range of a space must hold no
    others.

    Attributes:
        words: what the numbers are, for errors: "a square".
    """

    words: str

    def nth(self, n: int) -> int:
        """Return the n-th number."""
        raise NotImplementedError

    def rank(self, value: int) -> int:
        """Return how many of the numbers are at most `value`."""
        raise NotImplementedError

    def holds(self, value: Any) -> bool:
        """Whether a number, which may be traced, is one of them."""
        return bool(self.nth(self.rank(value)) == value)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Refuse other numbers, with the two next to the one given."""
        return no_info_after_validator_function(self._checked, handler(source))

    def _checked(self, value: int) -> int:
        if not self.holds(value):
            rank = self.rank(value)
            near = [str(self.nth(n)) for n in (rank, rank + 1) if n > 0]
            context = {"expected": f"{self.words}, such as {' or '.join(near)}", "got": str(value)}
            raise PydanticCustomError("expected", "{expected}, got {got}", context)
        return value


class Multiples(Grid):
    """The multiples of a number."""

    def __init__(self, of: int) -> None:
        self.words = f"a multiple of {of}"
        self._of = of

    def nth(self, n: int) -> int:
        """Return n times the number."""
        return n * self._of

    def rank(self, value: int) -> int:
        """Return how many multiples there are up to `value`."""
        return value // self._of


class Squares(Grid):
    """The squares."""

    words = "a square"

    def nth(self, n: int) -> int:
        """Return n * n."""
        return n * n

    def rank(self, value: int) -> int:
        """Return the square root, rounded down."""
        # costs can be traced through this, and not through isqrt
        root: float = value**0.5
        return floor(root)


class Untraced:
    """Marks a number that is constant in traced cost formulas, since it decides how costs are summed."""


Width = Annotated[Count, Aligned()]
"""A count that is the size of a tensor dimension: a whole number above 0, units allowed."""

Square = Annotated[Count, Squares()]
"""A count that is a square, units allowed."""

Natural = Annotated[int, Field(ge=0, le=LARGEST), _COUNT, _quantity_schema(COUNT_PATTERN, 0)]
"""A whole number, 0 allowed, units allowed."""

Bytes = Annotated[int, Field(gt=0, le=LARGEST), _BYTES, _quantity_schema(BYTES_PATTERN, 1)]
"""A number of bytes, units allowed."""

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
"""A finite number above 0."""

NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""A finite number, 0 allowed."""

Fraction = Annotated[float, Field(gt=0, le=1)]
"""A fraction above 0, at most 1."""
