"""Parquet: each row is a document. Needs pyarrow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from composer.data.base.errors import DataError
from composer.data.building.base.extras import needed
from composer.data.building.base.records import check_columns, documents_of
from composer.data.building.base.source import UNIT_BYTES, Document, Format, Options, Unit

_ROWS = 1024


def _open(path: str) -> Any:
    parquet = needed("pyarrow.parquet", f"{path}: reading Parquet")
    arrow = needed("pyarrow", f"{path}: reading Parquet")
    try:
        return parquet.ParquetFile(path)
    except (arrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a whole Parquet file: {error}") from None


def _units(path: Path, options: Options) -> Iterator[tuple[int, int, int]]:
    with _open(str(path)) as file:
        check_columns(str(path), file.schema_arrow.names, options)
        sizes = [file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups)]
    start, size = 0, 0
    for i, each in enumerate(sizes, start=1):
        size += each
        if size >= UNIT_BYTES or i == len(sizes):
            yield start, i, size
            start, size = i, 0


def _documents(unit: Unit, options: Options) -> Iterator[Document]:
    with _open(unit.path) as file:
        row = sum(file.metadata.row_group(i).num_rows for i in range(unit.start))
        groups = [*range(unit.start, unit.end)]
        for batch in file.iter_batches(_ROWS, row_groups=groups, columns=options.fields.names):
            yield from documents_of(batch.to_pylist(), options, unit.path, row)
            row += len(batch)


FORMAT = Format("parquet", lambda name, path, head: head.startswith(b"PAR1"), _units, _documents)
