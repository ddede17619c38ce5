"""The store in PostgreSQL: records, leases and Optuna's study in one database, shared by all workers.

Run folders stay in the search folder of each worker, shared or not. A search is identified by the name and
the identity of its space, so a changed space is another search.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import optuna
import sqlalchemy as sql
from optuna.samplers import BaseSampler
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from composer.settings.errors import first_line
from composer.training.folder.files import write_text
from search.errors import SearchError
from search.objectives import Goals
from search.store import tables
from search.store.database_study import OpenedStorage, has_journal, open_storage
from search.store.folder import DATABASE, JOURNAL, JOURNAL_COPY, LOCK, RECORDS, TURN, WORKERS
from search.store.journal import named_study
from search.store.lease import SUFFIX, Lease, is_alive, this_worker
from search.store.ledger import Record, RecordFiles, record_of, record_text
from search.store.locks import exclusive, nothing
from search.store.shared import Shared

_MAKING = 7_228_401_973
"""The advisory lock under which tables are created; an arbitrary number."""
_RESOURCES = "53"
"""The class of PostgreSQL's errors about a full disk, memory or too many connections."""
_PAUSE = 0.2
"""Seconds between two questions to the database while waiting for the lock."""
_PAGE = 500
"""Most records that are read at once."""
_PUT = sql.text(
    """
with next as (update composer_searches set version = version + 1 where id = :search returning version)
insert into composer_records (search, key, identity, body, version)
select :search, :key, :identity, :body, next.version from next
on conflict (search, key) do update
set identity = excluded.identity, body = excluded.body, version = excluded.version
returning version
"""
)
# page by page, since all records as text would take twice the memory of those that are kept
_CHANGED = sql.text(
    """
select body, version from composer_records
where search = :search and version > :version order by version limit :most
"""
)
_OPTIONS = {
    "connect_timeout": 10,
    # a lock ends with its holder, also if its machine is switched off or its process is stopped
    "options": "-c idle_in_transaction_session_timeout=60000 -c lock_timeout=120000",
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
}


class DatabaseStore:
    """A store shared by all workers that can reach the same database."""

    def __init__(self, folder: Path, space: Shared, url: sql.URL) -> None:
        self.worker = this_worker()
        self._folder, self._url = folder, url
        self._name = f"{space.name}-{space.identity()}"
        self._place = url.render_as_string(hide_password=True)
        self._connection: sql.Connection | None = None
        self._storage: OpenedStorage | None = None
        self._version = self._newest = 0
        self._versions: dict[str, int] = {}
        self._engine = self._new_engine()
        try:
            self._search, token = self._enter("\n".join(space.lines()))
            self._refuse_another(token)
            self._write_time()
        except DBAPIError as error:
            message = f"expected a PostgreSQL database to write to, but {_cause(error)}"
            raise SearchError(f"{self._place}: {message}") from None
        finally:
            # nothing stays open if this fails
            self._engine.dispose()
        self._lease = Lease(folder / WORKERS, self.worker)
        self._copies = RecordFiles(folder / RECORDS)
        self._copied: dict[str, int] = {}

    @contextmanager
    def lock(self, meanwhile: Callable[[], None] = nothing) -> Iterator[None]:
        """Hold the row of the search; what is put meanwhile becomes visible to others at once.

        Workers of one folder take turns by a lock file, so that few wait in the database. One whose turn does
        not come waits there all the same, since the server ends the turn of a process that is stopped.
        """
        turn = exclusive(self._folder / TURN, _now_and_then(meanwhile), queue=False)
        with turn, self._engine.begin() as connection:
            row = sql.select(tables.searches.c.version).where(tables.searches.c.id == self._search)
            self._newest = connection.execute(row.with_for_update()).scalar_one()
            self._connection = connection
            try:
                yield
            finally:
                self._connection = None

    def changed(self) -> list[Record]:
        """Read the records of later versions than the last one read."""
        if self._connection is not None and self._newest == self._version:
            return []
        changed: list[Record] = []
        version = self._version
        with self._reading() as connection:
            while True:
                after = {"search": self._search, "version": version, "most": _PAGE}
                rows = connection.execute(_CHANGED, after).all()
                records = [record_of(row.body) for row in rows]
                self._versions |= {record.key: row.version for record, row in zip(records, rows, strict=True)}
                changed += records
                version = rows[-1].version if rows else version
                if len(rows) < _PAGE:
                    break
        self._version = version
        return changed

    def put(self, record: Record) -> None:
        """Write a record, under the next version."""
        assert self._connection is not None
        parameters = {"search": self._search, "key": record.key}
        parameters |= {"identity": record.identity, "body": record_text(record)}
        version: int = self._connection.execute(_PUT, parameters).scalar_one()
        if self._version == version - 1:
            self._version = version
        self._newest = self._versions[record.key] = version

    def study(self, goals: Goals, sampler: BaseSampler) -> optuna.Study:
        """Open Optuna's study in the same database, created if missing."""
        self._close_storage()
        with self._making() as connection:
            journal = has_journal(connection, self._search, self._name)
        self._storage = open_storage(journal, self._url, _OPTIONS, self._search)
        return named_study(self._storage.storage, self._name, goals, sampler)

    def touch(self) -> None:
        """Write the time, by the server's clock, into the row of this worker."""
        self._lease.touch()
        self._write_time()

    def _write_time(self) -> None:
        own = {"search": self._search, "name": self.worker.name, "host": self.worker.host}
        own |= {"pid": self.worker.pid, "machine": self.worker.machine}
        new = insert(tables.workers).values(**own, touched=sql.func.clock_timestamp())
        touched = {"touched": sql.func.clock_timestamp()}
        with self._engine.begin() as connection:
            connection.execute(new.on_conflict_do_update(index_elements=["search", "name"], set_=touched))

    def others(self) -> set[str]:
        """Judge other workers by the server's clock, and those on this machine by their locks."""
        # no worker could write while the server was down
        since = sql.func.greatest(tables.workers.c.touched, sql.func.pg_postmaster_start_time())
        age = sql.extract("epoch", sql.func.clock_timestamp() - since).label("age")
        workers = tables.workers.c
        others = (workers.search == self._search) & (workers.name != self.worker.name)
        query = sql.select(workers.name, workers.machine, workers.pid, age).where(others)
        dead, alive = [], set()
        with self._reading() as connection:
            rows = connection.execute(query).all()
        for row in rows:
            path = self._folder / WORKERS / f"{row.name}{SUFFIX}"
            if is_alive(path, row.machine, row.pid, float(row.age)):
                alive.add(row.name)
            else:
                path.unlink(missing_ok=True)
                dead.append(row.name)
        if dead and self._connection is not None:
            self._connection.execute(sql.delete(tables.workers).where(others & workers.name.in_(dead)))
        return alive

    def is_lost(self, error: Exception) -> bool:
        """Whether the chain of an error says that the server was unreachable or went away."""
        link: BaseException | None = error
        while link is not None:
            if isinstance(link, (OperationalError, InterfaceError)):
                return True
            if isinstance(link, DBAPIError) and link.connection_invalidated:
                return True
            link = link.__cause__ or link.__context__
        return False

    def lost(self, error: Exception, waited: float | None) -> str:
        """Return a message that the database does not answer."""
        full = getattr(getattr(error, "orig", None), "sqlstate", None) or ""
        message = f"{self._place}: the database does not answer"
        if full.startswith(_RESOURCES):
            message = f"{self._place}: the database lacks resources ({_cause(error)})"
        if waited is None:
            return f"{message}; trying again"
        waiting = f", for {waited / 60:.0f} minutes" if waited else ""
        cause = "" if full.startswith(_RESOURCES) else f": {_cause(error)}"
        return f"{message}{waiting}{cause}\nnothing is lost; run the same command to resume once it is back"

    def reopen(self) -> None:
        """Connect again, and forget all records."""
        self._engine.dispose()
        self._version = self._newest = 0
        self.touch()

    def export(self, records: Iterable[Record]) -> None:
        """Copy the records, and the study of a journal, into the folder."""
        if self._storage is not None and self._storage.journal is not None:
            self._storage.journal.copy(self._folder / JOURNAL_COPY)
        for record in records:
            version = self._versions.get(record.key, 0)
            if self._copied.get(record.key) != version:
                self._copies.put_changed(record)
                self._copied[record.key] = version

    def close(self) -> None:
        """Remove the row and the lease."""
        self._lease.close()
        row = (tables.workers.c.search == self._search) & (tables.workers.c.name == self.worker.name)
        with suppress(DBAPIError), self._engine.begin() as connection:
            connection.execute(sql.delete(tables.workers).where(row))
        self._close_storage()
        self._engine.dispose()

    def _close_storage(self) -> None:
        if self._storage is not None:
            self._storage.close()

    def _new_engine(self) -> sql.Engine:
        return sql.create_engine(self._url, pool_pre_ping=True, connect_args=_OPTIONS)

    @contextmanager
    def _reading(self) -> Iterator[sql.Connection]:
        if self._connection is not None:
            yield self._connection
        else:
            # a transaction would take two more messages, while 64 workers ask all the time
            with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                yield connection

    @contextmanager
    def _making(self) -> Iterator[sql.Connection]:
        """Hold the lock under which tables and studies are created."""
        with self._engine.begin() as connection:
            connection.execute(sql.select(sql.func.pg_advisory_xact_lock(_MAKING)))
            yield connection

    def _enter(self, space: str) -> tuple[int, str]:
        with self._making() as connection:
            tables.metadata.create_all(connection)
            # a table that an older version made lacks it
            for index in tables.records.indexes:
                index.create(connection, checkfirst=True)
            fields: dict[str, Any] = {"name": self._name, "token": uuid4().hex, "space": space, "version": 0}
            connection.execute(insert(tables.searches).values(**fields).on_conflict_do_nothing())
            searches = tables.searches.c
            query = sql.select(searches.id, searches.token).where(searches.name == self._name)
            row = connection.execute(query).one()
            return row.id, row.token

    def _refuse_another(self, token: str) -> None:
        """Keep the run folders of two searches apart."""
        path = self._folder / DATABASE
        with exclusive(self._folder / LOCK):
            if (self._folder / JOURNAL).exists():
                raise SearchError(
                    f"{self._folder}: this search keeps its records in the folder, not in a database; "
                    "continue without --storage, or choose another folder with --out"
                )
            if not path.exists():
                write_text(path, f"{token}\n{self._place}\n")
            stored, place, *_ = [*path.read_text(encoding="utf-8").splitlines(), "", ""]
            if stored != token:
                raise SearchError(
                    f"{self._folder}: its runs belong to another search, in {place or 'a database'}, not to "
                    f"this one in {self._place}; choose another folder with --out"
                )


def _now_and_then(meanwhile: Callable[[], None]) -> Callable[[], None]:
    """Limit how often the database is asked while waiting."""
    asked = time.monotonic()

    def limited() -> None:
        nonlocal asked
        if time.monotonic() - asked > _PAUSE:
            meanwhile()
            asked = time.monotonic()

    return limited


def _cause(error: Exception) -> str:
    return first_line(getattr(error, "orig", None) or error)
