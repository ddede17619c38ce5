"""JSON lines: each line is an object, whose fields are a document."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from composer.data.base.errors import DataError
from composer.data.building.base.files import cuts, lines, opened
from composer.data.building.base.records import document
from composer.data.building.base.source import Document, Format, Options, Unit


def _documents(unit: Unit, options: Options) -> Iterator[Document]:
    with opened(Path(unit.path)) as file:
        if unit.start:  # only plain files are divided, and not all others can seek
            file.seek(unit.start)
        place = unit.start
        for line in lines(file, unit.start, unit.end):
            if line.strip():
                # a line number would take reading the file from its beginning
                where = f"{unit.path}, line at byte {place:,}"
                try:
                    record = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise DataError(f"{where}: not a line of JSON: {error}") from None
                yield document(record, options, where)
            place += len(line)


FORMAT = Format(
    "jsonl",
    lambda name, path, head: name.endswith((".jsonl", ".ndjson", ".json")),
    lambda path, options: cuts(path),
    _documents,
    general=1,
)
