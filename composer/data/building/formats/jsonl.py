"""JSON lines: each line is an object, whose fields are a document."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from composer.data.base.errors import DataError
from composer.data.building.base.files import cuts, line_at, lines, opened
from composer.data.building.base.records import document
from composer.data.building.base.source import Document, Format, Options, Unit


def _documents(unit: Unit, options: Options) -> Iterator[Document]:
    with opened(Path(unit.path)) as file:
        if unit.start:  # only plain files are divided, and not all others can seek
            file.seek(unit.start)
        place = unit.start
        for line in lines(file, unit.start, unit.end):
            if line.strip():
                try:
                    yield document(_parsed(line), options)
                except DataError as error:
                    raise DataError(f"{unit.path}, {line_at(unit.path, place)}: {error}") from None
            place += len(line)


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8: {error.object[error.start]:#04x} at column {error.start + 1}") from None
    except json.JSONDecodeError as error:
        raise DataError(f"not a line of JSON: {error.msg} at column {error.colno}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"not a line of JSON: {error}") from None


FORMAT = Format(
    "jsonl",
    lambda name, path, head: name.endswith((".jsonl", ".ndjson", ".json")),
    lambda path, options: cuts(path),
    _documents,
    general=1,
)
