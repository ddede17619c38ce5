"""Checks over configs of which some fields are invalid: they say what they can, and no more."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")


class Unknown(Exception):
    """A check has read a value that is invalid, so that it can say nothing."""


class _Invalid:
    """Stands for a field whose value is invalid or missing: it is not None, and nothing else is known."""

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
"""In the place of a value that is invalid."""


def independent(*checks: Iterable[T]) -> Iterator[T]:
    """Yield what each check finds; one that reads an invalid value ends, and the others go on."""
    for check in checks:
        with suppress(Unknown):
            yield from check
