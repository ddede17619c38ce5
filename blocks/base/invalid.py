"""Semantic checks of configs with some invalid fields."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")


class Unknown(Exception):
    """A check has read an invalid value, so its result is unknown."""


class _Invalid:
    """Placeholder for an invalid or missing value; any use except `is None` raises `Unknown`."""

    def __repr__(self) -> str:
        return "INVALID"

    def __getattr__(self, name: str) -> NoReturn:
        raise Unknown(name)


def _unknown(*_: object) -> NoReturn:
    raise Unknown


_OPERATIONS = (
    "eq ne lt le gt ge hash bool len iter contains getitem call int float index round format str "
    "add radd sub rsub mul rmul floordiv rfloordiv truediv rtruediv mod rmod pow rpow neg abs divmod rdivmod"
)
for _name in _OPERATIONS.split():
    setattr(_Invalid, f"__{_name}__", _unknown)

INVALID: Any = _Invalid()
"""The placeholder for an invalid or missing value."""


def independent(*checks: Iterable[T]) -> Iterator[T]:
    """Yield the results of several checks; one that reads an invalid value ends without affecting others."""
    for check in checks:
        with suppress(Unknown):
            yield from check
