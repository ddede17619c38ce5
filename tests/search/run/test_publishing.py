"""Workers that end runs at the same time do not wait in line to write the same tables."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from fake_training import toy

from search.objectives import Goals
from search.progress.state import State
from search.run import publishing
from search.run.publishing import Publisher
from search.store.folder import enter
from search.store.folder_store import FolderStore
from search.store.ledger import Ledger


def test_of_many_that_wait_one_writes_what_all_know(tmp_path, monkeypatch):
    space, folder = toy(tmp_path), tmp_path / "run"
    enter(folder, space)
    written: list[set[str]] = []
    together = Barrier(8)

    def publish(folder, state):
        written.append({record.identity for record in state.ledger})
        time.sleep(0.05)

    monkeypatch.setattr(publishing, "publish", publish)
    monkeypatch.setattr(publishing, "bring_specs", lambda *asked: None)

    def work(number: int) -> bool:
        store = FolderStore(folder, space.name)
        state = State(space.search, Goals(space.search.objectives), Ledger(store))
        publisher = Publisher(folder, state, store, lambda record: None)
        results = []
        for turn in range(2):
            together.wait(30)
            with store.lock():
                state.ledger.refresh()
                record = state.ledger.claim(f"{number}-{turn}", number, {}, {"params": 5.0})
            publisher()
            # it was written, by this worker or by another, before it goes on
            results.append(any(record.identity in known for known in written))
        store.close()
        return all(results)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))
    assert len(written) < 16


def test_a_lock_file_that_says_nothing_skips_nothing(tmp_path, monkeypatch):
    """As those of older versions do, and one whose writer died."""
    space, folder = toy(tmp_path), tmp_path / "run"
    enter(folder, space)
    store, written = FolderStore(folder, space.name), []
    monkeypatch.setattr(publishing, "publish", lambda folder, state: written.append(state))
    publisher = Publisher(
        folder, State(space.search, Goals(space.search.objectives), Ledger(store)), store, lambda record: None
    )
    for content in (None, "", "nonsense", "7\nnonsense", "7\n"):
        if content is not None:
            (folder / "publish.lock").write_text(content)
        publisher()
    assert len(written) == 5
    count, seconds = (folder / "publish.lock").read_text().split()
    assert count == "8"
    assert float(seconds) >= 0
    store.close()


def test_a_count_that_is_being_written_skips_nothing(tmp_path, monkeypatch):
    space, folder = toy(tmp_path), tmp_path / "run"
    enter(folder, space)
    store, written, read = FolderStore(folder, space.name), [], [(0, 0.0), (57, 0.1)]
    monkeypatch.setattr(publishing, "publish", lambda folder, state: written.append(state))
    monkeypatch.setattr(publishing, "_last", lambda path: read.pop(0))
    state = State(space.search, Goals(space.search.objectives), Ledger(store))
    Publisher(folder, state, store, lambda record: None)(at_last=True)
    assert written
    store.close()
