"""OLMo-core's `.npy`: token ids and nothing else, in spite of their name; or arrays that numpy saved."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from composer.data.base.errors import DataError
from composer.data.building.base.source import Document, Format, Options, Unit
from composer.data.building.base.token_files import documents, mapped, one_unit

_MAGIC = b"\x93NUMPY"


def _documents(unit: Unit, options: Options) -> Iterator[Document]:
    with open(unit.path, "rb") as file:
        saved = file.read(len(_MAGIC)) == _MAGIC
    if not saved:
        if not options.dtype:
            raise DataError(
                f"{unit.path}: a .npy file without a header, as OLMo-core writes; give --dtype uint16 for "
                "vocabularies up to 65,536 tokens, else --dtype uint32"
            )
        yield from documents(mapped(unit.path, np.dtype(options.dtype).newbyteorder("<")), options)
        return
    try:
        tokens = np.load(unit.path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise DataError(f"{unit.path}: not a whole array of numpy: {error}") from None
    if tokens.dtype.kind not in "iu":
        raise DataError(f"{unit.path}: expected an array of token ids, got one of {tokens.dtype}")
    yield from documents(tokens.reshape(-1), options)


FORMAT = Format("olmo", lambda name, path, head: name.endswith(".npy"), one_unit, _documents, tokens=True)
