"""A trial that is named as a baseline later: a baseline from then on, and never trained twice."""

from __future__ import annotations

from itertools import pairwise

import pytest
from fake_training import AGAIN, FakeTraining, Luck, board, toy

from search.errors import Crash
from search.progress.words import titled
from search.report.read import read
from search.report.write import write_report
from search.run.study import run_search


def begun(root, *more, pick, train=None):
    """A search without baselines, then the same one with one of its trials as point.yaml; and that trial."""
    first = run_search(toy(root, *more), root / "run", train or FakeTraining())
    trial = next(record for record in first.state.ledger.trials() if pick(first.state, record))
    (root / "point.yaml").write_text((root / "run" / trial.folder / "spec.yaml").read_text())
    return toy(root, *more, baseline="point.yaml"), first.state, trial


def test_the_winner_named_as_a_baseline_gets_finals_as_one_and_takes_no_finalist_s_place(tmp_path):
    train = Luck()
    space, before, trial = begun(
        tmp_path, *AGAIN, pick=lambda state, record: record is state.winner(), train=train
    )
    again = Luck()
    state = run_search(space, tmp_path / "run", again).state
    assert not {folder for folder, *_ in again.calls} & {folder for folder, *_ in train.calls}
    assert not any(folder.startswith("baselines") for folder, *_ in again.calls)
    # its finals stand, and those of a finalist in its place are added
    *finalists, baseline = state.finals().standings()
    owed = [at for at in finalists if at.base in state.finals().finalists()]
    assert len(owed) == 2
    assert baseline.base.identity == trial.identity
    assert all(len(at.runs) == 3 and len(at.sweep) == 3 for at in (*owed, baseline))
    assert state.winner().identity != trial.identity
    assert [record.identity for record in state.front("baseline")] == [trial.identity]
    # it counts as no trial any more
    assert len(before.done()) == len(state.done()) == 6
    kinds = {row["trial"]: row["kind"] for row in board(tmp_path / "run")}
    assert kinds == {str(n): "baseline" if str(n) == trial.name else "trial" for n in range(7)}
    assert (tmp_path / "run" / "standings.csv").read_text().count(",baseline,") == 1


def test_it_stays_a_baseline_for_every_reader_and_every_later_start(tmp_path):
    space, _, trial = begun(tmp_path, *AGAIN, pick=lambda state, record: record is state.winner())
    run_search(space, tmp_path / "run", FakeTraining())
    last = FakeTraining()
    state = run_search(toy(tmp_path, *AGAIN), tmp_path / "run", last).state
    assert last.calls == []
    source = read(tmp_path / "run")
    for seen in (state, source.state):
        (baseline,) = [record for record in seen.ledger if seen.is_baseline(record)]
        assert titled(seen, baseline) == f"baseline point ({trial.name})"
    write_report(tmp_path / "run")
    page = (tmp_path / "run" / "report.html").read_text()
    assert 'id="baselines"' in page
    assert f"baseline point ({trial.name})" in page


def test_one_that_was_stopped_at_a_rung_goes_on_from_there_to_its_end(tmp_path):
    space, _, trial = begun(tmp_path, pick=lambda state, record: record.status == "stopped")
    again = FakeTraining()
    state = run_search(space, tmp_path / "run", again).state
    record = state.ledger.find(trial.identity)
    assert (record.status, record.role, record.tokens) == ("finished", "baseline", 8192)
    left = [trial.tokens, *(mark for mark in (4096, 8192) if mark > trial.tokens)]
    own = [call for call in again.calls if call[0] == trial.folder]
    assert own == [(trial.folder, *pair) for pair in pairwise(left)]
    assert len(state.done()) == 6


def test_one_that_crashed_is_not_tried_again(tmp_path):
    def fault(spec, tokens):
        if tokens == 4096:
            raise Crash("the loss is nan")

    more = ("search.trials=1",)
    space, _, trial = begun(tmp_path, *more, pick=lambda *_: True, train=FakeTraining(fault))
    again = FakeTraining()
    state = run_search(space, tmp_path / "run", again).state
    assert trial.folder not in {folder for folder, *_ in again.calls}
    assert state.ledger.find(trial.identity).status == "crashed"
    assert state.is_baseline(state.ledger.find(trial.identity))


def test_one_that_a_dead_worker_was_training_is_gone_on_with_as_a_baseline(tmp_path):
    class Killed(BaseException):
        pass

    class Dies(FakeTraining):
        def __call__(self, spec, folder, until, report):
            if until == 4096:
                raise Killed
            return super().__call__(spec, folder, until, report)

    with pytest.raises(Killed):
        run_search(toy(tmp_path), tmp_path / "run", Dies())
    (tmp_path / "point.yaml").write_text((tmp_path / "run" / "trials" / "0" / "spec.yaml").read_text())
    again = FakeTraining()
    state = run_search(toy(tmp_path, baseline="point.yaml"), tmp_path / "run", again).state
    assert again.calls[:2] == [("trials/0", 2048, 4096), ("trials/0", 4096, 8192)]
    (baseline,) = [record for record in state.ledger if record.role == "baseline"]
    assert (baseline.name, baseline.adopted, baseline.status) == ("0", "point", "finished")
    assert len(state.done()) == 6
    assert state.outcomes["repeat"] == 0
