"""Running a study: which runs, in which order, resumed and changed."""

import json
import re
from dataclasses import dataclass

import kill_study
import pytest
from agents import Threads
from fake_training import FakeTraining, SlowTraining
from studies import toy_study
from worker import kills

from composer.data.base.errors import DataError
from search.errors import Crash, SearchError
from search.launch.remote import RemoteCrew
from search.run.worker_plan import WorkerPlan
from search.study.command import note_stale
from search.study.plan import Plan
from search.study.report import markdown
from search.study.rows import read_rows
from search.study.run import run_study
from search.study.workers import run_workers


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return toy_study(tmp_path_factory.mktemp("study"))


def run(study, folder, train=None):
    train = train or FakeTraining()
    run_study(study, folder, folder / "rows.jsonl", train)
    return train.calls if isinstance(train, FakeTraining) else None


def test_arms_are_tried_at_all_rates_then_at_their_best_with_fresh_seeds(study, tmp_path):
    run(study, tmp_path)
    rows = read_rows(tmp_path / "rows.jsonl")
    assert len(rows) == 2 * (2 + 2) * 2
    results = Plan(study).results(rows)
    for arm in study.arms:
        tried = {
            row.rate: row.metrics["accuracy"]
            for row in rows
            if row.arm == arm.name and row.seed == 0 and row.budget == 8192
        }
        assert results.rate(arm) == max(tried, key=tried.get)
        fresh = [row for row in rows if row.arm == arm.name and row.seed]
        assert {row.rate for row in fresh} == {results.rate(arm)}
        assert sorted(results.fresh(arm, 4096)) == [1, 2]
    # seeds come outermost
    assert [row.seed for row in rows] == sorted(row.seed for row in rows)


def test_one_run_serves_all_budgets_and_a_longer_one_goes_on_from_it(study, tmp_path):
    calls = run(study, tmp_path)
    assert [(start, end) for _, start, end in calls[:2]] == [(0, 4096), (4096, 8192)]
    longer = toy_study(tmp_path, "budgets=[4Ki, 8Ki, 16Ki]")
    assert {(start, end) for _, start, end in run(longer, tmp_path)} >= {(8192, 16384)}
    assert run(longer, tmp_path) == []


def test_a_budget_between_others_is_trained_in_a_folder_of_its_own(study, tmp_path):
    run(study, tmp_path)
    between = toy_study(tmp_path, "budgets=[4Ki, 6Ki, 7Ki, 8Ki]")

    def stop(spec, tokens):
        if tokens == 7168:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(between, tmp_path, FakeTraining(stop))
    calls = run(between, tmp_path)
    # it goes on in that folder
    assert calls[0][0].endswith("-from-6144")
    assert [(start, end) for _, start, end in calls[:3]] == [(6144, 7168), (0, 6144), (6144, 7168)]
    rows = read_rows(tmp_path / "rows.jsonl")
    assert len(rows) == len({row.cell for row in rows}) == 2 * 4 * 4


def test_a_run_that_was_stopped_past_a_new_budget_begins_anew(study, tmp_path):
    def stop(spec, tokens):
        if tokens == 8192:
            raise KeyboardInterrupt

    fault = FakeTraining(stop)
    with pytest.raises(KeyboardInterrupt):
        run(study, tmp_path, fault)
    folder = tmp_path / fault.calls[0][0]
    text = (folder / "spec.yaml").read_text()
    (folder / "spec.yaml").write_text(text.replace("tokens: 4096", "tokens: 8192"))
    (first, *_, last), *_ = run(toy_study(tmp_path, "budgets=[6Ki]"), tmp_path)
    assert first.endswith("-from-6144")
    assert last == 6144


def test_rows_alone_are_enough_to_go_on_elsewhere(study, tmp_path):
    run(study, tmp_path / "here")
    lines = (tmp_path / "here/rows.jsonl").read_text().splitlines(keepends=True)
    there = tmp_path / "there"
    there.mkdir()
    (there / "space.txt").write_text("study: toy\n")
    (there / "rows.jsonl").write_text("".join(lines[:-1]))
    calls = run(study, there)
    # the last budget of the last run, from its start
    assert [(start, end) for _, start, end in calls] == [(0, 8192)]
    assert len(read_rows(there / "rows.jsonl")) == len(lines)


def test_a_changed_arm_is_trained_again_and_its_old_rows_are_told(study, tmp_path, capsys):
    run(study, tmp_path)
    other = toy_study(
        tmp_path, "arms.untied.set=['stages=[{stack: 3, step: [seq, mlp]}]']", "arms.untied.match=[]"
    )
    note_stale(other, tmp_path / "rows.jsonl")
    output = capsys.readouterr().err
    assert "8 rows are not used: untied was trained with another spec" in output
    assert "looped" not in output
    assert {name.rpartition("/")[2].split("-")[0] for name, *_ in run(other, tmp_path)} == {"untied"}


def test_a_run_that_cannot_be_trained_is_a_row_and_the_others_go_on(study, tmp_path):
    def fault(spec, tokens):
        if spec.train.lr == 2e-3 and spec.stages[0].recur:
            raise Crash("the loss is nan")

    run(study, tmp_path, FakeTraining(fault))
    rows = read_rows(tmp_path / "rows.jsonl")
    crashed = [row for row in rows if row.crashed]
    assert {(row.arm, row.rate, row.crashed) for row in crashed} == {("looped", 2e-3, "the loss is nan")}
    looped, _ = study.arms
    assert Plan(study).results(rows).rate(looped) == 1e-3


def test_a_study_whose_runs_all_crash_stops_with_their_reasons(study, tmp_path):
    def fault(spec, tokens):
        raise Crash("no memory")

    with pytest.raises(SearchError, match=r"3 runs in a row could not be trained:\n.*no memory"):
        run(study, tmp_path, FakeTraining(fault))


def test_a_torn_last_line_is_repaired_and_another_bad_line_refused(study, tmp_path):
    run(study, tmp_path)
    path = tmp_path / "rows.jsonl"
    whole = path.read_text()
    path.write_text(whole[:-40])
    assert len(read_rows(path)) == len(whole.splitlines()) - 1
    run(study, tmp_path)
    assert sorted(path.read_text().splitlines()[:-1]) == sorted(whole.splitlines()[:-1])
    json.loads(path.read_text().splitlines()[-1])
    path.write_text('{"arm": "x"}\n' + whole)
    with pytest.raises(SearchError, match=r"rows.jsonl:1: expected a row of a study"):
        read_rows(path)


@pytest.mark.slow
def test_a_study_killed_at_any_durable_step_ends_like_one_left_alone(tmp_path):
    assert kills(kill_study.main, tmp_path, 1) > 30


def test_a_study_killed_at_some_durable_steps_ends_like_one_left_alone(tmp_path):
    assert kills(kill_study.main, tmp_path, 25) > 30


@pytest.mark.slow
def test_two_workers_train_what_one_would(study, tmp_path):
    run(study, tmp_path / "one")
    seen = []
    run_workers(
        study,
        tmp_path / "two",
        tmp_path / "two/rows.jsonl",
        WorkerPlan(2, 1),
        lambda event, progress: seen.append((event, progress.worker)),
        train=SlowTraining(0.3, tmp_path / "hold"),
    )
    one, two = (
        {row.cell: row.metrics for row in read_rows(tmp_path / name / "rows.jsonl")}
        for name in ("one", "two")
    )
    assert one == two
    assert len((tmp_path / "two/rows.jsonl").read_text().splitlines()) == len(two)
    assert {worker for event, worker in seen if event == "row"} == {1, 2}
    assert list((tmp_path / "two/workers").iterdir()) == []


@dataclass(frozen=True)
class Remote:
    """A plan of one worker whose agent is a thread of this process, and which is reached as on a cluster."""

    count: int = 1
    here: bool = False
    note: str = ""

    def start(self, job):
        return RemoteCrew(Threads(), job, self.count, {}, "127.0.0.1", "waiting")


def test_a_worker_that_a_launcher_starts_trains_what_a_local_one_would(study, tmp_path):
    run(study, tmp_path / "local")
    seen, rows = [], tmp_path / "remote/rows.jsonl"

    def watch(event, progress):
        seen.append((event, progress.worker))

    run_workers(study, rows.parent, rows, Remote(), watch, train=SlowTraining(0.0, tmp_path / "hold"))
    local, remote = (
        {row.cell: row.metrics for row in read_rows(path)} for path in (tmp_path / "local/rows.jsonl", rows)
    )
    assert local == remote
    assert seen.count(("row", 1)) == len(remote)
    assert list((rows.parent / "workers").iterdir()) == []


def test_rows_are_judged_where_the_data_are_not(tmp_path):
    text = tmp_path / "corpus.txt"
    text.write_text("A short text, over and over. " * 100)
    data = f"set=['train.data={{task: text, path: {text}, length: 32}}', model.vocab=256]"
    study, rows = toy_study(tmp_path, data), tmp_path / "out" / "rows.jsonl"
    run(study, rows.parent)
    page = markdown(study, rows)
    assert page.startswith("All 8 runs are done")
    text.unlink()
    assert markdown(toy_study(tmp_path, data), rows) == page
    one, *others = rows.read_text().splitlines()
    rows.write_text("\n".join([json.dumps(json.loads(one) | {"data": "other"}), *others, ""]))
    with pytest.raises(DataError, match=re.escape(str(text))):
        markdown(study, rows)
