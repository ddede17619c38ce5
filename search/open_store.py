"""Where a search keeps what its workers share: in its folder, or in a database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from composer.spec.space import Space
from search.folder_store import FolderStore
from search.store import Store


@contextmanager
def open_store(folder: Path, space: Space, storage: str | None) -> Iterator[Store]:
    """Open the store of the search in `folder`, and leave it in the end.

    Raises:
        SearchError: it is the database of another search, or cannot be reached.
    """
    store = FolderStore(folder, space.name)
    try:
        yield store
    finally:
        store.close()
