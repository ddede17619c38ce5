"""Opening the store that the workers of a search share, in its folder or in a database."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from composer.language.space import Space
from composer.settings.errors import os_message
from search.errors import SearchError
from search.propose.requirements import check_search
from search.store.folder import enter, refuse_database
from search.store.folder_store import FolderStore
from search.store.lease import beating
from search.store.shared import Shared
from search.store.store import Store

_SCHEMES = ("postgresql", "postgres", "postgresql+psycopg")


@contextmanager
def open_search(space: Space, folder: Path, storage: str | None) -> Iterator[Store]:
    """Check a space, create its folder or join the search there, and hold a lease in its store until the end.

    Raises:
        SpecError: the space cannot be searched; see `check_search`.
        SearchError: the folder or the database cannot be used.
    """
    check_search(space)
    with open_shared(space, folder, storage) as store:
        yield store


@contextmanager
def open_shared(shared: Shared, folder: Path, storage: str | None) -> Iterator[Store]:
    """Create the folder of what workers share or join it, and hold a lease in its store until the end.

    Raises:
        SearchError: the folder or the database cannot be used.
    """
    try:
        enter(folder, shared)
        with open_store(folder, shared, storage) as store, beating(store.touch, store.is_lost):
            yield store
    except OSError as error:
        raise SearchError(
            f"{os_message(error, error.filename or folder)}\n"
            "everything written so far is intact; run the same command to resume"
        ) from None


@contextmanager
def open_store(folder: Path, space: Shared, storage: str | None) -> Iterator[Store]:
    """Open the store of the search in `folder`, and close it at the end.

    Raises:
        SearchError: it is the database of another search, or cannot be reached.
    """
    store = _in_folder(folder, space) if storage is None else _in_database(folder, space, storage)
    try:
        yield store
    finally:
        store.close()


def check_storage(storage: str) -> None:
    """Refuse a URL that is no database a search can use, before anything is created.

    Raises:
        SearchError: it is the URL of something else, or its driver is missing.
    """
    scheme, colon, _ = storage.partition("://")
    if not colon or scheme not in _SCHEMES:
        got = f"{scheme}://..." if colon else repr(storage)
        raise SearchError(
            f"--storage: expected postgresql://USER@HOST/DATABASE, got {got}; "
            "without it a search is kept in its folder"
        )
    if importlib.util.find_spec("psycopg") is None:
        raise SearchError(
            "--storage: PostgreSQL needs the driver psycopg, which is not installed: "
            "pip install 'attention-composer[postgresql]'"
        )


def _in_folder(folder: Path, space: Shared) -> Store:
    refuse_database(folder)
    return FolderStore(folder, space.name)


def _in_database(folder: Path, space: Shared, storage: str) -> Store:
    check_storage(storage)
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    from search.store.database import DatabaseStore

    try:
        url = make_url(storage).set(drivername="postgresql+psycopg")
    except ArgumentError:
        raise SearchError("--storage: expected postgresql://USER@HOST/DATABASE, got no URL") from None
    return DatabaseStore(folder, space, url)
