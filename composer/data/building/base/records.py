"""Records of fields, such as lines of JSON or rows of a table, as documents."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from composer.data.base.errors import DataError
from composer.data.building.base.source import Document, Options

_OTHERS = "name others with --fields text=NAME or --fields prompt=NAME,target=NAME"
_KINDS = {dict: "an object", list: "a list", int: "a number", float: "a number", str: "a string"}


def document(record: Any, options: Options) -> Document:
    """Return the document of a record.

    Raises:
        DataError: it lacks a field, or a field is no string.
    """
    fields = options.fields
    if not fields.prompt:
        return Document(_string(record, fields.text))
    return Document(_string(record, fields.target), _string(record, fields.prompt) + options.join)


def documents_of(rows: Iterable[Any], options: Options, path: str, first: int) -> Iterator[Document]:
    """Yield the documents of rows of a table; `first` is the number of the first, from 0.

    Raises:
        DataError: a field is no string; says in which row.
    """
    for number, row in enumerate(rows, first):
        try:
            yield document(row, options)
        except DataError as error:
            raise DataError(f"{path}, row {number:,} (from 0): {error}") from None


def check_columns(path: str, columns: Sequence[str], options: Options) -> None:
    """Refuse a table that lacks a field.

    Raises:
        DataError: it does.
    """
    for name in options.fields.names:
        if name not in columns:
            raise DataError(
                f"{path}: expected a column {name!r}, got {', '.join(columns) or 'no columns'}; {_OTHERS}"
            )


def _string(record: Any, field: str) -> str:
    if not isinstance(record, Mapping) or field not in record:
        got = (
            f"an object with {', '.join(map(str, record)) or 'no keys'}"
            if isinstance(record, Mapping)
            else _kind(record)
        )
        raise DataError(f"expected an object with the field {field!r}, got {got}; {_OTHERS}")
    value = record[field]
    if not isinstance(value, str):
        raise DataError(f"expected a string in the field {field!r}, got {_kind(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"the field {field!r} is no Unicode text: {error.reason}") from None
    return value


def _kind(value: Any) -> str:
    """Name the kind of a value as JSON does."""
    if value is None or isinstance(value, bool):
        return str(value).lower().replace("none", "null")
    return _KINDS.get(type(value), type(value).__name__)
