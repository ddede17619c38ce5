"""A search whose records and study are in PostgreSQL: as on a folder, and over the loss of the server."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from contextlib import ExitStack

import kill_everywhere
import optuna
import pytest
from database_checks import check_all, rows
from fake_training import FakeTraining, board, toy
from postgresql import Server, execute, missing, query
from studies import toy_study
from worker import EIGHT, join, kills, start

from composer import load
from composer.cli.main import main
from composer.language.schema.identity import run_hash
from search.errors import SearchError
from search.progress.table import summary
from search.report.read import read
from search.run import worker
from search.run.open_store import open_search
from search.run.study import run_search
from search.store import database, lease, locks
from search.store.database import DatabaseStore
from search.store.folder import TURN
from search.store.ledger import Record
from search.study.rows import read_rows
from search.study.run import run_study

optuna.logging.set_verbosity(optuna.logging.WARNING)
AWAY = float(os.environ.get("DATABASE_AWAY", "30"))
needs_server = pytest.mark.skipif(bool(missing()), reason=missing())


SIX = [*EIGHT, "search.trials=6"]


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    monkeypatch.setattr(worker, "POLL", 0.05)


@pytest.fixture(scope="module")
def server():
    server = Server()
    yield server
    server.remove()


@needs_server
def test_four_workers_with_clocks_two_minutes_apart_share_the_trials_and_train_none_twice(tmp_path, server):
    url, space = server.url("four"), toy(tmp_path, *SIX)
    join(start(tmp_path, 4, 0.05, *SIX, storage=url, ahead=120.0))
    check_all(tmp_path, url, space)
    assert len(board(tmp_path / "run")) == 6
    # the folder has copies, for the report
    copies = [json.loads(path.read_text()) for path in (tmp_path / "run" / "records").iterdir()]
    assert sorted(map(str, copies)) == sorted(map(str, rows(url)))


@needs_server
def test_a_search_in_a_database_is_the_search_in_a_folder(tmp_path, server):
    space = toy(tmp_path, "search.trials=5", baseline="rival.yaml")
    run_search(space, tmp_path / "folder", FakeTraining())
    run_search(space, tmp_path / "database", FakeTraining(), storage=server.url("same"))
    tables = [
        [{k: v for k, v in r.items() if k != "seconds"} for r in board(tmp_path / name)]
        for name in ("folder", "database")
    ]
    assert tables[0] == tables[1]
    assert (tmp_path / "database" / "best" / "best.ckpt").exists()
    known = [read(tmp_path / name).proposals for name in ("folder", "database")]
    assert known[0] == known[1]
    assert len(known[0]) == 5


@needs_server
def test_a_worker_elsewhere_is_inherited_from_after_expiry_with_a_folder_of_ones_own_from_scratch(
    tmp_path, server, monkeypatch
):
    """Records are shared, checkpoints are not: a trial goes on from the start of its training."""
    url, space = server.url("own"), toy(tmp_path, *SIX)
    (tmp_path / "first").mkdir()
    (first,) = start(tmp_path / "first", 1, 0.05, *SIX, storage=url)
    work = tmp_path / "first" / "run" / "work.log"
    while not work.exists() or len(work.read_text().splitlines()) < 7:
        time.sleep(0.01)
    first.kill()
    first.communicate()
    execute(url, "update composer_workers set machine = 'moon'")
    begun = {row["name"]: row for row in rows(url)}
    space = toy(tmp_path, *SIX, f"search.trials={len(begun)}")
    (running,) = (row for row in begun.values() if row["status"] == "running")
    fake, notes = FakeTraining(), []

    def watch(event, state):
        if event == "note" and not notes:
            notes.append(state.note)
            monkeypatch.setattr(lease, "EXPIRY", 0.0)

    ended = run_search(space, tmp_path / "second", fake, watch, url)
    done = f"{len(begun) - 1} of {len(begun)} trials, 0 of 2 finals"
    assert notes == [f"waiting for 1 other worker to end, after {done}"]
    assert len(ended.state.done()) == len(begun)
    # the specs of what was trained elsewhere are here, its weights are there
    ours = {
        row["trial"]: load(tmp_path / "second" / row["folder"] / "spec.yaml")
        for row in board(tmp_path / "second")
    }
    theirs = {row["identity"] for row in rows(url) if row["kind"] == "trial"}
    assert {run_hash(spec) for spec in ours.values()} == theirs
    assert "train it again, longer: composer train" in "\n".join(
        summary(tmp_path / "second", ended.state, "x")
    )
    assert fake.calls[0][:2] == (running["folder"], 0)
    trained = {folder for folder, *_ in fake.calls if not folder.startswith("finals/")}
    assert trained == {running["folder"]}


@needs_server
def test_a_database_that_vanishes_amid_a_search_and_comes_back_loses_nothing(tmp_path, server):
    url, notes = server.url("gone"), []
    space = toy(tmp_path, *SIX)
    workers = start(tmp_path, 2, 0.1, *SIX, storage=url)
    work = tmp_path / "run" / "work.log"
    while not work.exists() or len(work.read_text().splitlines()) < 6:
        time.sleep(0.01)
    server.stop()
    time.sleep(0.5)
    server.start()
    join(workers)
    check_all(tmp_path, url, space)
    assert not notes


@needs_server
def test_a_stopped_worker_of_the_same_folder_holds_up_no_other(tmp_path, server, monkeypatch):
    monkeypatch.setattr(locks, "_PATIENCE", 0.02)
    with ExitStack() as stopped:

        def watch(event, state):
            if event == "begin":
                stopped.enter_context(locks.exclusive(tmp_path / "run" / TURN))

        space = toy(tmp_path, "search.trials=1")
        ended = run_search(space, tmp_path / "run", FakeTraining(), watch, server.url("stopped"))
    assert len(ended.state.done()) == 1


@needs_server
@pytest.mark.slow
@pytest.mark.timeout(300 + AWAY)
def test_a_database_that_is_away_for_long_stops_no_worker(tmp_path, server):
    """For half a minute, or for DATABASE_AWAY seconds."""
    url, space = server.url("away"), toy(tmp_path, *SIX)
    workers = start(tmp_path, 3, 0.1, *SIX, storage=url)
    work = tmp_path / "run" / "work.log"
    while not work.exists() or len({row["worker"] for row in rows(url)}) < 3:
        time.sleep(0.05)
    server.stop()
    time.sleep(AWAY)
    assert all(worker.poll() is None for worker in workers)
    server.start()
    join(workers)
    check_all(tmp_path, url, space)


@needs_server
@pytest.mark.slow
def test_a_search_killed_at_any_step_in_a_database_ends_as_one_left_alone(tmp_path, server):
    assert kills(kill_everywhere.main, tmp_path, 7, server.url("kills")) > 100


@needs_server
@pytest.mark.parametrize("retry", [60.0, 0.2])
def test_a_lost_database_is_told_and_given_up_after_a_while(tmp_path, server, monkeypatch, retry):
    monkeypatch.setattr(worker, "RETRY", retry)
    url, space, notes = server.url(f"lost{retry:.0f}"), toy(tmp_path, *SIX), []

    def watch(event, state):
        if event == "note":
            notes.append(state.note)
        if event == "rung" and len(state.done()) == 3 and not notes:
            server.stop()
            if retry > 1:
                threading.Timer(0.3, server.start).start()

    if retry > 1:
        ended = run_search(space, tmp_path / "run", FakeTraining(), watch, url)
        assert len(ended.state.done()) == 6
    else:
        try:
            with pytest.raises(
                SearchError, match=r"does not answer, for .*\n.*nothing is lost; run the same command"
            ):
                run_search(space, tmp_path / "run", FakeTraining(), watch, url)
        finally:
            server.start()
        run_search(space, tmp_path / "run", FakeTraining(), storage=url)
    check_all(tmp_path, url, space)
    assert (
        notes[0]
        == f"{url.replace('postgresql:', 'postgresql+psycopg:')}: the database does not answer; trying again"
    )


FULL = """
create function refuse() returns trigger language plpgsql as
$$ begin raise exception 'no space left on device' using errcode = 'disk_full'; end $$;
create trigger full_disk before insert on {} for each row execute function refuse()
"""


@needs_server
@pytest.mark.parametrize("table", ["composer_journal_records", "composer_records"])
def test_a_disk_of_the_server_that_is_full_for_a_while_loses_nothing(tmp_path, server, table):
    url, space, notes = server.url(f"full_{table}"), toy(tmp_path, *SIX), []

    def watch(event, state):
        if event == "note":
            notes.append(state.note)
            threading.Timer(0.2, execute, [url, f"drop trigger if exists full_disk on {table}"]).start()
        if event == "rung" and len(state.done()) == 2 and not notes:
            execute(url, FULL.format(table))

    run_search(space, tmp_path / "run", FakeTraining(), watch, url)
    assert notes[0].endswith("the database lacks resources (no space left on device); trying again")
    check_all(tmp_path, url, space)


@needs_server
@pytest.mark.slow
def test_clocks_two_minutes_apart_change_nothing_in_a_database(tmp_path, server):
    url, space = server.url("clocks"), toy(tmp_path, *SIX)
    join(start(tmp_path, 3, 0.05, *SIX, storage=url, ahead=120.0))
    check_all(tmp_path, url, space)


@needs_server
@pytest.mark.parametrize("retry", [60.0, 0.2])
def test_a_worker_that_starts_while_the_database_goes_away_waits_for_it(tmp_path, server, monkeypatch, retry):
    monkeypatch.setattr(worker, "RETRY", retry)
    url, space = server.url(f"start{retry:.0f}"), toy(tmp_path, *SIX)
    opened, stopped = DatabaseStore.study, []

    def stop_first(store, *arguments):
        if not stopped:
            stopped.append(server.stop())
            if retry > 1:
                threading.Timer(0.3, server.start).start()
        return opened(store, *arguments)

    monkeypatch.setattr(DatabaseStore, "study", stop_first)
    if retry > 1:
        with pytest.warns(UserWarning, match="the database does not answer; trying again"):
            run_search(space, tmp_path / "run", FakeTraining(), storage=url)
        check_all(tmp_path, url, space)
        return
    try:
        with (
            pytest.warns(UserWarning, match="does not answer; trying again"),
            pytest.raises(
                SearchError, match=r"does not answer, for .*\n.*nothing is lost; run the same command"
            ),
        ):
            run_search(space, tmp_path / "run", FakeTraining(), storage=url)
    finally:
        server.start()


@needs_server
def test_folders_of_other_searches_are_refused(tmp_path, server):
    space = toy(tmp_path, "search.trials=1")
    run_search(space, tmp_path / "folder", FakeTraining())
    with pytest.raises(SearchError, match="keeps its records in the folder"):
        run_search(space, tmp_path / "folder", FakeTraining(), storage=server.url("a"))
    run_search(space, tmp_path / "database", FakeTraining(), storage=server.url("a"))
    with pytest.raises(SearchError, match=r"keeps its records in postgresql.*name it with --storage"):
        run_search(space, tmp_path / "database", FakeTraining())
    with pytest.raises(SearchError, match="its runs belong to another search"):
        run_search(space, tmp_path / "database", FakeTraining(), storage=server.url("b"))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("sqlite:///a.db", r"expected postgresql://USER@HOST/DATABASE, got sqlite://\.\.\."),
        ("here", "got 'here'"),
        (
            "postgresql://me:secret@127.0.0.1:1/no",
            r"me:\*\*\*@127.0.0.1:1/no: expected a PostgreSQL database",
        ),
    ],
)
def test_what_is_no_database_is_told(tmp_path, url, message):
    if "secret" in url and missing().startswith("no psycopg"):
        pytest.skip(missing())
    with pytest.raises(SearchError, match=message) as caught:
        run_search(toy(tmp_path), tmp_path / "run", FakeTraining(), storage=url)
    assert "secret" not in str(caught.value)


def test_a_missing_driver_is_told_with_the_extra_that_has_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    toy(tmp_path)
    command = [
        "search",
        str(tmp_path / "space.yaml"),
        "--out",
        str(tmp_path / "run"),
        "--storage",
        "postgresql://x",
    ]
    assert main(command) == 1
    assert "pip install 'attention-composer[postgresql]'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@needs_server
def test_a_study_has_its_records_in_a_database_and_goes_on_in_another_folder(tmp_path, server):
    url, compared = server.url("study"), toy_study(tmp_path)

    def stop(spec, tokens):
        if spec.train.seed:
            raise KeyboardInterrupt

    path = tmp_path / "rows.jsonl"
    with pytest.raises(KeyboardInterrupt):
        run_study(compared, tmp_path / "one", path, FakeTraining(stop), storage=url)
    half = len(read_rows(path))
    assert 0 < half < 16
    run_study(compared, tmp_path / "two", path, FakeTraining(), storage=url)
    assert len(path.read_text().splitlines()) == len(read_rows(path)) == 16
    assert {record["status"] for record in rows(url)} == {"finished"}
    assert (tmp_path / "two/database.txt").exists()


@needs_server
def test_records_are_read_page_by_page_in_the_order_of_their_versions(tmp_path, server, monkeypatch):
    monkeypatch.setattr(database, "_PAGE", 2)
    space, url = toy(tmp_path), server.url("pages")
    with open_search(space, tmp_path / "run", url) as one, open_search(space, tmp_path / "run", url) as other:
        for count in (5, 2, 0):
            records = [Record(f"{count}{n}", "trial", f"{count}{n}", n, {}, {}, "") for n in range(count)]
            with one.lock():
                for record in records:
                    one.put(record)
            assert other.changed() == records


@needs_server
def test_a_table_of_an_older_version_gets_the_index_by_which_workers_ask(tmp_path, server):
    space, url, index = toy(tmp_path), server.url("index"), "composer_records_by_version"
    for _ in range(2):
        with open_search(space, tmp_path / "run", url):
            assert query(url, f"select 1 from pg_indexes where indexname = '{index}'")
        execute(url, f"drop index {index}")
