"""Optuna's journal in a database: one row for each record, in the order in which they were committed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sql
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from search.optuna_replay import SearchJournal
from search.store.journal import cut_tail
from search.store.json_lines import parsed

# the row of the length stays locked until the records are committed, so their numbers have no gaps and no
# reader sees a record before an earlier one; in one statement all of it happens or nothing
_APPEND = """
with grown as (
    update composer_journals set length = length + %(count)s where search = %(search)s returning length
)
insert into composer_journal_records (search, number, body)
select %(search)s, grown.length - %(count)s + new.place - 1, new.body
from grown, unnest(%(bodies)s::text[]) with ordinality as new (body, place)
returning number
"""
_READ = """
select body from composer_journal_records
where search = %(search)s and number >= %(start)s order by number limit %(most)s
"""
_PAGE = 2_000
"""Most records that are read at once."""
_PIECE = 1 << 20
"""Bytes of a file that are read at once."""


class DatabaseJournal(SearchJournal):
    """The journal of one search, over a connection of its own.

    An append does not wait for the server's disk. If the server crashes, its last appends may be lost, but
    never one before anything that was committed with waiting, such as a trial's record in the ledger.
    """

    def __init__(self, url: sql.URL, options: dict[str, Any], search: int) -> None:
        """Connect at the first use.

        Args:
            options: of the connection, as psycopg knows them.
            search: its number in the table of searches, which has a row in the table of journals.
        """
        super().__init__()
        waiting = {**options, "options": f"{options.get('options', '')} -c synchronous_commit=off"}
        self._engine = sql.create_engine(
            url, poolclass=NullPool, isolation_level="AUTOCOMMIT", connect_args=waiting
        )
        self._search = search
        self._connection: sql.Connection | None = None
        self._own: tuple[int, list[str]] = 0, []

    def append(self, logs: list[dict[str, Any]]) -> None:
        """Append records, all or none."""
        bodies = [json.dumps(log, separators=(",", ":")) for log in logs]
        parameters = {"search": self._search, "count": len(bodies), "bodies": bodies}
        numbers = [number for (number,) in self._execute(_APPEND, parameters)]
        assert len(numbers) == len(bodies), f"search {self._search} has no journal"
        self._own = min(numbers, default=0), bodies

    def read(self, start: int) -> Iterator[dict[str, Any]]:
        """Yield records from a number on: all, or after an append perhaps no more than what was appended."""
        first, bodies = self._own
        self._own = 0, []
        if bodies and first == start:
            # no other worker wrote since the last reading
            yield from parsed(bodies)
            return
        for page in self._pages(start):
            yield from parsed(page)

    def copy(self, path: Path) -> None:
        """Append the records that a file lacks, one per line as in a folder; one writer at a time."""
        with path.open("a+b") as file:
            cut_tail(file)
            file.seek(0)
            lines = sum(piece.count(b"\n") for piece in iter(partial(file.read, _PIECE), b""))
            for page in self._pages(lines):
                file.writelines(f"{body}\n".encode() for body in page)

    def _pages(self, start: int) -> Iterator[list[str]]:
        while True:
            parameters = {"search": self._search, "start": start, "most": _PAGE}
            bodies = [body for (body,) in self._execute(_READ, parameters)]
            yield bodies
            if len(bodies) < _PAGE:
                return
            start += len(bodies)

    def close(self) -> None:
        """Disconnect; the next use connects again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _execute(self, statement: str, parameters: dict[str, Any]) -> list[sql.Row[Any]]:
        if self._connection is None:
            self._connection = self._engine.connect()
        try:
            return list(self._connection.exec_driver_sql(statement, parameters).all())
        except DBAPIError:
            self.close()
            raise
