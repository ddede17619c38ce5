"""Where a database keeps the study of a search: in a journal, or in Optuna's own tables.

Older versions used the tables, which take about 130 statements for each trial. A search that they began stays
there, so that workers of both versions share one study.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sql
from optuna.storages import BaseStorage, RDBStorage
from sqlalchemy.dialects.postgresql import insert

from search.errors import SearchError
from search.optuna_replay import SearchStorage
from search.store import tables
from search.store.database_journal import DatabaseJournal


@dataclass(frozen=True)
class OpenedStorage:
    """A storage of Optuna's, what closes its connections, and its journal, if it is in one."""

    storage: BaseStorage
    close: Callable[[], None]
    journal: DatabaseJournal | None = None


def has_journal(connection: sql.Connection, search: int, name: str) -> bool:
    """Decide whether the study of a search is in a journal, which is created if the study is nowhere yet.

    Call under the lock under which tables are created, and commit before the storage is opened.
    """
    journal = sql.select(tables.journals.c.search).where(tables.journals.c.search == search)
    if connection.execute(journal).first() is not None:
        return True
    if _is_in_tables(connection, name):
        return False
    connection.execute(insert(tables.journals).values(search=search, length=0))
    return True


def open_storage(journal: bool, url: sql.URL, options: dict[str, Any], search: int) -> OpenedStorage:
    """Open the storage of a study.

    Args:
        journal: whether it is in a journal.
        options: of connections, as psycopg knows them.
        search: the number of the search.
    """
    if journal:
        backend = DatabaseJournal(url, options, search)
        return OpenedStorage(SearchStorage(backend), backend.close, backend)
    plain = url.render_as_string(hide_password=False)
    storage = RDBStorage(plain, engine_kwargs={"pool_pre_ping": True, "connect_args": options})

    def close() -> None:
        storage.remove_session()
        storage.engine.dispose()

    return OpenedStorage(storage, close)


def storage_of(url: str, name: str) -> OpenedStorage:
    """Open the storage of a search for Optuna's tools, by the name of its study: that of its folder.

    Raises:
        SearchError: the database has no search of that name.
    """
    address = sql.make_url(url).set(drivername="postgresql+psycopg")
    engine = sql.create_engine(address)
    try:
        with engine.connect() as connection:
            number = connection.execute(
                sql.select(tables.searches.c.id).where(tables.searches.c.name == name)
            ).scalar()
            if number is None:
                place = address.render_as_string(hide_password=True)
                raise SearchError(f"{place}: expected a search named {name}, got none")
            journal = has_journal(connection, number, name)
    finally:
        engine.dispose()
    return open_storage(journal, address, {}, number)


def _is_in_tables(connection: sql.Connection, name: str) -> bool:
    if connection.execute(sql.text("select to_regclass('studies')")).scalar() is None:
        return False
    query = sql.text("select 1 from studies where study_name = :name")
    return connection.execute(query, {"name": name}).first() is not None
