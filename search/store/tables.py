"""The tables of searches in a database, beside those of other programs."""

from __future__ import annotations

import sqlalchemy as sql

metadata = sql.MetaData()

searches = sql.Table(
    "composer_searches",
    metadata,
    sql.Column("id", sql.Integer, primary_key=True),
    sql.Column("name", sql.Text, unique=True, nullable=False),
    sql.Column("token", sql.Text, nullable=False),
    sql.Column("space", sql.Text, nullable=False),
    sql.Column("version", sql.BigInteger, nullable=False),
)


def _of_a_search() -> sql.Column[int]:
    return sql.Column("search", sql.ForeignKey(searches.c.id, ondelete="CASCADE"), primary_key=True)


records = sql.Table(
    "composer_records",
    metadata,
    _of_a_search(),
    sql.Column("key", sql.Text, primary_key=True),
    sql.Column("identity", sql.Text, nullable=False),
    sql.Column("body", sql.Text, nullable=False),
    sql.Column("version", sql.BigInteger, nullable=False),
    sql.UniqueConstraint("search", "identity"),
    # all workers ask for the latest again and again
    sql.Index("composer_records_by_version", "search", "version"),
)
workers = sql.Table(
    "composer_workers",
    metadata,
    _of_a_search(),
    sql.Column("name", sql.Text, primary_key=True),
    sql.Column("host", sql.Text, nullable=False),
    sql.Column("pid", sql.Integer, nullable=False),
    sql.Column("machine", sql.Text, nullable=False),
    sql.Column("touched", sql.DateTime(timezone=True), nullable=False),
)
journals = sql.Table(
    "composer_journals",
    metadata,
    _of_a_search(),
    sql.Column("length", sql.BigInteger, nullable=False),
)
# a key of searches would wait for the lock on a search, under which its worker writes to the journal
journal_records = sql.Table(
    "composer_journal_records",
    metadata,
    sql.Column("search", sql.ForeignKey(journals.c.search, ondelete="CASCADE"), primary_key=True),
    sql.Column("number", sql.BigInteger, primary_key=True, autoincrement=False),
    sql.Column("body", sql.Text, nullable=False),
)
