"""Records of fields, such as lines of JSON or rows of a table, as documents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from composer.data.base.errors import DataError
from composer.data.building.base.source import Document, Options


def document(record: Any, options: Options, place: str) -> Document:
    """Return the document of a record.

    Raises:
        DataError: it lacks a field, or a field is no string.
    """
    fields = options.fields
    if not fields.prompt:
        return Document(_string(record, fields.text, place))
    return Document(
        _string(record, fields.target, place), _string(record, fields.prompt, place) + options.join
    )


def _string(record: Any, field: str, place: str) -> str:
    if not isinstance(record, Mapping) or field not in record:
        got = (
            f"an object with {', '.join(map(str, record)) or 'no keys'}"
            if isinstance(record, Mapping)
            else type(record).__name__
        )
        raise DataError(
            f"{place}: expected an object with the field {field!r}, got {got}; name others with "
            "--fields text=NAME or --fields prompt=NAME,target=NAME"
        )
    value = record[field]
    if not isinstance(value, str):
        raise DataError(f"{place}: expected a string in the field {field!r}, got {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{place}: the field {field!r} is no Unicode text: {error.reason}") from None
    return value
