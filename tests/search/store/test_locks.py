"""Folders whose locks do not work, and notes of changed records that a dead writer left incomplete."""

from __future__ import annotations

import errno
import fcntl
import io
import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from fake_training import FakeTraining, toy

from search.errors import SearchError
from search.launch.agent import Start, check_sharing
from search.run.study import run_search
from search.run.worker_process import SearchJob
from search.store import locks
from search.store.change_log import ChangeLog
from search.store.folder import CHANGES
from search.store.folder_store import FolderStore
from search.store.journal import Journal
from search.store.ledger import Ledger, Record
from search.store.locks import exclusive


def test_a_disk_that_fills_amid_a_note_loses_nothing(tmp_path, monkeypatch):
    append, left = ChangeLog._append, [7]

    def full(log, line):
        left[0] -= 1
        if left[0] == 0:
            append(log, line[:3].rstrip())
            raise OSError(errno.ENOSPC, "No space left on device", str(log._path))
        append(log, line)

    monkeypatch.setattr(ChangeLog, "_append", full)
    space = toy(tmp_path, "search.trials=4", "search.keep=1")
    with pytest.raises(SearchError, match=r"changes\.log: No space left on device\n.*run the same command"):
        run_search(space, tmp_path / "run", FakeTraining())
    ended = run_search(space, tmp_path / "run", FakeTraining())
    assert [record.status for record in ended.state.done()] == ["finished"] * 4
    assert len((tmp_path / "run" / "work.log").read_text().splitlines()) == 12


def _refuses(*arguments):
    raise OSError(errno.ENOLCK, "No locks available")


@pytest.mark.parametrize(
    ("flock", "message"), [(lambda *arguments: None, "two holders at once"), (_refuses, "No locks available")]
)
def test_a_folder_without_working_locks_is_refused_at_the_start(tmp_path, monkeypatch, flock, message):
    space = toy(tmp_path)
    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(
        SearchError, match=rf"run: expected a file system with locks \(flock\), got .*{message}"
    ):
        run_search(space, tmp_path / "run", FakeTraining())
    assert not (tmp_path / "run" / "space.txt").exists()


def test_a_node_refuses_a_folder_that_is_another_there_or_whose_locks_do_not_reach_it(tmp_path, monkeypatch):
    monkeypatch.setattr("search.launch.agent._SEEN", 0.0)
    space = toy(tmp_path, "search.trials=1")
    run_search(space, tmp_path / "run", FakeTraining())
    job = SearchJob(space, tmp_path / "run", None, FakeTraining())
    start = Start(job, {}, "/", "a.held")
    logs = tmp_path / "run" / "logs"
    logs.mkdir()
    with pytest.raises(SearchError, match=r"not the same folder on node-7.*--storage"):
        check_sharing(start, "node-7")
    check_sharing(replace(start, job=replace(job, storage="postgresql://a")), "node-7")
    with exclusive(logs / "a.held"):
        check_sharing(start, "node-7")
    with pytest.raises(SearchError, match="a lock that another machine holds is free on node-7"):
        check_sharing(start, "node-7")


def test_a_store_sees_the_changes_of_another_and_completes_the_notes_of_a_dead_one(tmp_path):
    (tmp_path / "workers").mkdir()
    one, two = FolderStore(tmp_path, "a"), FolderStore(tmp_path, "a")
    mine, theirs = Ledger(one), Ledger(two)
    with one.lock():
        record = mine.claim("x", 0, {}, {})
    theirs.refresh()
    assert theirs.find("x").status == "running"
    # killed between its first note and the second, after another looked
    log = ChangeLog(tmp_path / CHANGES)
    noting = log.noting(record.key)
    noting.__enter__()
    assert two.changed() == []
    path = tmp_path / "records" / f"{record.key}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "status": "finished"}))
    theirs.refresh()
    assert theirs.find("x").status == "running"
    with one.lock():
        pass
    theirs.refresh()
    assert theirs.find("x").status == "finished"
    one.close()
    two.close()


@pytest.mark.parametrize("torn", ["trial-1", "trial-12\ntria", "trial-12\ntrial-12 ", "trial-12\n"])
def test_torn_notes_are_completed_and_hide_no_change(tmp_path, torn):
    path = tmp_path / "changes.log"
    log, reader = ChangeLog(path), ChangeLog(path)
    with log.noting("trial-0"):
        pass
    reader.changed()
    with path.open("a") as file:
        file.write(torn)
    before = set(reader.changed())
    log.repair()
    after = set(reader.changed())
    assert "trial-12" in after or torn == "trial-1"
    assert before <= {"trial-12"}
    log.repair()
    assert reader.changed() == []
    with log.noting("trial-3"):
        pass
    assert reader.changed() == ["trial-3"]


def test_a_ledger_that_changes_in_place_is_the_ledger_read_anew(tmp_path: Path):
    (tmp_path / "workers").mkdir()
    one, two = FolderStore(tmp_path, "a"), FolderStore(tmp_path, "a")
    mine, theirs = Ledger(one), Ledger(two)
    with one.lock():
        mine.claim("a", 0, {}, {})
        mine.claim_baseline("rival", "b", {})
    theirs.refresh()
    with two.lock():
        result = theirs.claim("c", 1, {}, {})
        result.status = "finished"
        theirs.save(result)
        theirs.claim_final(result, "1-lr1", {"lr": 1.0, "seed": 1})
    with one.lock():
        mine.refresh()
        mine.claim("d", 2, {}, {})
    theirs.refresh()
    fresh = Ledger(tmp_path / "records")
    for ledger in (mine, theirs):
        assert {record.key: vars(record) for record in ledger.every()} == {
            record.key: vars(record) for record in fresh.every()
        }
    assert list(theirs) == list(fresh)
    assert isinstance(theirs.find("d"), Record)
    one.close()
    two.close()


def test_who_waits_for_a_lock_reads_meanwhile_and_takes_it_in_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "_PATIENCE", 0.05)
    looks, taken = [], threading.Event()

    def wait() -> None:
        with exclusive(tmp_path / "lock", lambda: looks.append(taken.is_set())):
            taken.set()

    waiter = threading.Thread(target=wait, daemon=True)
    with exclusive(tmp_path / "lock"):
        waiter.start()
        # beyond its patience it is in the system's queue
        assert not taken.wait(0.2)
    assert taken.wait(60)
    assert looks
    assert not any(looks)


def test_records_written_together_are_appended_at_once_and_seen_after(tmp_path):
    journal, other = Journal(tmp_path / "study.journal"), Journal(tmp_path / "study.journal")
    logs = [{"number": number} for number in range(4)]
    journal.append_logs(logs[:1])
    with journal.together():
        journal.append_logs(logs[1:2])
        other.append_logs(logs[2:3])
        assert [*journal.read_logs(0)] == []
        journal.append_logs(logs[3:])
    results = [logs[0], logs[2], logs[1], logs[3]]
    assert [*other.read_logs(0)] == results
    # a reader that asks again, and one whose last line is still being written
    assert [*other.read_logs(1)] == results[1:]
    with (tmp_path / "study.journal").open("a") as file:
        file.write('{"number"')
    assert [*other.read_logs(4)] == []
    journal.append_logs([{"number": 4}])
    assert [*other.read_logs(4)] == [{"number": 4}]
    assert [*other.read_logs(5)] == []


def test_a_line_that_is_written_during_a_read_is_read_whole_the_next_time(tmp_path, monkeypatch):
    journal = Journal(tmp_path / "journal.log")
    journal.path.write_bytes(b'{"n": 1}\n{"n":')

    class Growing(io.FileIO):
        """A file whose last line is completed once it was read."""

        def readlines(self, hint=-1):
            lines = super().readlines(hint)
            journal.path.write_bytes(b'{"n": 1}\n{"n": [2]}\n')
            return lines

    monkeypatch.setattr("search.store.journal.open", lambda name, mode: Growing(name), raising=False)
    assert [*journal.read(0)] == [{"n": 1}]
    assert [*journal.read(1)] == [{"n": [2]}]
