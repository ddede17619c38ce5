"""Arrow files, as `datasets` of Hugging Face saves them: each row is a document. Needs pyarrow."""

from __future__ import annotations

from collections.abc import Iterator

from composer.data.base.errors import DataError
from composer.data.building.base.extras import needed
from composer.data.building.base.records import check_columns, documents_of
from composer.data.building.base.source import Document, Format, Options, Unit


def _documents(unit: Unit, options: Options) -> Iterator[Document]:
    arrow = needed("pyarrow", f"{unit.path}: reading Arrow files")
    row = 0
    try:
        with arrow.memory_map(unit.path) as source, arrow.ipc.open_stream(source) as batches:
            check_columns(unit.path, batches.schema.names, options)
            for batch in batches:
                rows = batch.select(options.fields.names).to_pylist()
                yield from documents_of(rows, options, unit.path, row)
                row += len(batch)
    except (arrow.ArrowException, OSError) as error:
        raise DataError(f"{unit.path}: not a whole file of Arrow's stream format: {error}") from None


FORMAT = Format(
    "arrow",
    lambda name, path, head: name.endswith(".arrow"),
    lambda path, options: iter([(0, -1, path.stat().st_size)]),
    _documents,
)
