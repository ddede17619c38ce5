"""Optuna's journal in PostgreSQL: whole, in one order for all, and only where no older version began."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import optuna
import pytest
import sqlalchemy as sql
from fake_training import FakeTraining, toy
from optuna.storages import RDBStorage
from postgresql import Server, execute, missing, query
from sqlalchemy import make_url
from sqlalchemy.exc import DBAPIError

from search.errors import SearchError
from search.run.open_store import open_store
from search.run.study import run_search
from search.store import database_journal, tables
from search.store.database_journal import DatabaseJournal
from search.store.database_study import storage_of
from search.store.folder import enter

psycopg = pytest.importorskip("psycopg")
pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())
optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.fixture(scope="module")
def server():
    server = Server()
    yield server
    server.remove()


class Journal:
    """The journal of one search in a database with many."""

    def __init__(self, url: str, name: str) -> None:
        self.url = make_url(url).set(drivername="postgresql+psycopg")
        engine = sql.create_engine(self.url)
        with engine.begin() as connection:
            tables.metadata.create_all(connection)
            fields = {"name": name, "token": "", "space": "", "version": 0}
            new = sql.insert(tables.searches).values(**fields).returning(tables.searches.c.id)
            self.search = connection.execute(new).scalar_one()
            connection.execute(sql.insert(tables.journals).values(search=self.search, length=0))
        engine.dispose()

    @contextmanager
    def open(self) -> Iterator[DatabaseJournal]:
        """Open it as one more worker."""
        backend = DatabaseJournal(self.url, {}, self.search)
        try:
            yield backend
        finally:
            backend.close()

    def length(self) -> int:
        """Return what its row says."""
        url = self.url.set(drivername="postgresql").render_as_string()
        return query(url, f"select length from composer_journals where search = {self.search}")[0][0]

    def records(self) -> list[tuple[int, int, int]]:
        """Read all of it."""
        with self.open() as backend:
            return read(backend, 0)


@pytest.fixture
def journal(server, request):
    return Journal(server.url("journals"), request.node.name)


def write(journal: Journal, writer: int, appends: int, cut=lambda: None) -> list[tuple[int, int, int]]:
    """Append batches of one to three records; return those of which it is known that they were written."""
    done = []
    with journal.open() as backend:
        for number in range(appends):
            cut()
            batch = [(writer, number, part) for part in range(1 + number % 3)]
            with suppress(DBAPIError):
                backend.append_logs([{"record": each} for each in batch])
                done += batch
    return done


def read(backend: DatabaseJournal, start: int) -> list[tuple[int, int, int]]:
    return [tuple(log["record"]) for log in backend.read_logs(start)]


def check_whole(records: list[tuple[int, int, int]]) -> None:
    """Every batch is there whole, in one piece, and those of one writer in order."""
    assert len(set(records)) == len(records)
    heads = [at for at, (_, _, part) in enumerate(records) if part == 0]
    for start, end in zip(heads, [*heads[1:], len(records)], strict=True):
        writer, number, _ = records[start]
        assert records[start:end] == [(writer, number, part) for part in range(1 + number % 3)]
    for writer in {writer for writer, _, _ in records}:
        numbers = [number for other, number, part in records if other == writer and part == 0]
        assert numbers == sorted(numbers)


def test_all_readers_see_one_order_without_gaps_while_four_write(journal):
    over, seen = threading.Event(), []

    def follow() -> list[tuple[int, int, int]]:
        results = []
        with journal.open() as backend:
            while not (over.is_set() and len(results) >= len(seen)):
                results += read(backend, len(results))
        return results

    with ThreadPoolExecutor() as pool:
        readers = [pool.submit(follow) for _ in range(2)]
        writers = [pool.submit(write, journal, number, 40) for number in range(4)]
        written = [record for writer in writers for record in writer.result(60)]
        seen += journal.records()
        over.set()
        assert [reader.result(60) for reader in readers] == [seen, seen]
    assert sorted(seen) == sorted(written)
    check_whole(seen)


def test_what_a_worker_appended_itself_is_never_read_instead_of_earlier_records(journal):
    with journal.open() as one, journal.open() as other:
        one.append_logs([{"record": (1, 0, 0)}])
        assert read(one, 0) == [(1, 0, 0)]
        other.append_logs([{"record": (2, 0, 0)}])
        one.append_logs([{"record": (1, 3, 0)}])
        # its own record comes after one that it has not seen
        assert read(one, 1) == [(2, 0, 0), (1, 3, 0)]
        assert read(one, 3) == []
        assert read(other, 0) == [(1, 0, 0), (2, 0, 0), (1, 3, 0)]


def test_a_long_journal_is_read_in_pages(journal, monkeypatch):
    monkeypatch.setattr(database_journal, "_PAGE", 4)
    written = write(journal, 0, 4)
    with journal.open() as backend:
        assert [read(backend, start) for start in range(9)] == [written[start:] for start in range(9)]


def test_a_connection_cut_at_any_moment_tears_no_append(journal):
    rng, timers = random.Random(0), []

    def cut() -> None:
        if rng.random() < 0.2:
            timers.append(threading.Timer(rng.random() / 500, cut_connections, [journal]))
            timers[-1].start()

    known: set[tuple[int, int, int]] = set()
    for writers in range(0, 20, 2):
        with ThreadPoolExecutor() as pool:
            runs = [pool.submit(write, journal, writers + number, 60, cut) for number in range(2)]
            written = {record for run in runs for record in run.result(60)}
        known |= written
        if len(written) < 2 * 120:
            break
    else:
        pytest.fail("no append failed")
    for timer in timers:
        timer.join()
    records_ = journal.records()
    check_whole(records_)
    assert known <= set(records_)
    assert journal.length() == len(records_)


def cut_connections(journal: Journal) -> None:
    # it may be cut itself
    with suppress(psycopg.Error):
        execute(
            journal.url.set(drivername="postgresql").render_as_string(),
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where datname = current_database() and pid <> pg_backend_pid()",
        )


def test_a_server_that_crashes_loses_no_append_before_a_committed_record(journal, server):
    """Appends do not wait for the disk; the ledger does, and takes them with it."""
    written = write(journal, 1, 30)
    execute(server.url("journals"), "update composer_searches set version = version")
    write(journal, 2, 40)
    server.stop()
    server.start()
    records_ = journal.records()
    check_whole(records_)
    assert records_[: len(written)] == written
    assert journal.length() == len(records_)


def test_a_search_that_an_older_version_began_goes_on_in_optunas_tables(tmp_path, server):
    url, space = server.url("older"), toy(tmp_path, "search.trials=1", "search.rungs=[]")
    name = f"{space.name}-{space.identity()}"
    enter(tmp_path / "run", space)
    with open_store(tmp_path / "run", space, url):
        # the tables of searches, as an older version makes them before the study
        pass
    execute(url, "drop table composer_journal_records, composer_journals")
    storage = RDBStorage(url.replace("postgresql:", "postgresql+psycopg:"))
    optuna.create_study(storage=storage, study_name=name, directions=["maximize"])
    run_search(space, tmp_path / "run", FakeTraining(), storage=url)
    study = optuna.load_study(study_name=name, storage=storage)
    assert sum(trial.user_attrs["outcome"] == "feasible" for trial in study.get_trials()) == 1
    assert query(url, "select count(*) from composer_journals") == [(0,)]
    opened = storage_of(url, name)
    assert len(optuna.load_study(study_name=name, storage=opened.storage).trials) == len(study.trials)
    opened.close()
    storage.remove_session()
    storage.engine.dispose()


def test_a_study_that_has_a_journal_stays_there(tmp_path, server):
    """Also where a worker of an older version made one of the same name since."""
    url = server.url("newer")
    run_search(
        toy(tmp_path, "search.trials=1", "search.rungs=[]"), tmp_path / "run", FakeTraining(), storage=url
    )
    space = toy(tmp_path, "search.trials=2", "search.rungs=[]")
    name = f"{space.name}-{space.identity()}"
    storage = RDBStorage(url.replace("postgresql:", "postgresql+psycopg:"))
    optuna.create_study(storage=storage, study_name=name, directions=["maximize"])
    storage.remove_session()
    storage.engine.dispose()
    run_search(space, tmp_path / "run", FakeTraining(), storage=url)
    opened = storage_of(url, name)
    outcomes = [
        t.user_attrs["outcome"] for t in optuna.load_study(study_name=name, storage=opened.storage).trials
    ]
    opened.close()
    assert outcomes.count("feasible") == 2


def test_a_search_that_is_not_in_a_database_is_refused_with_its_name(server, journal):
    with pytest.raises(SearchError, match="expected a search named other-0, got none"):
        storage_of(server.url("journals"), "other-0")
