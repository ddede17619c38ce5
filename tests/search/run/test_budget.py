"""Budgets: what is spent, and when nothing further begins."""

from __future__ import annotations

from dataclasses import replace
from itertools import count

import pytest
from fake_training import FakeTraining, board, toy
from hypothesis import given
from hypothesis import strategies as st

from composer.language.schema.search import SearchConfig
from search.errors import Crash
from search.progress.budget import Account, accounts
from search.progress.spending import Spending, flops
from search.run.study import run_search
from search.store.ledger import Record, Seen

FULL = 8192
NUMBERS = count()


def record(*spans: tuple[float, float], tokens: int = 0, **more) -> Record:
    seen = [Seen(tokens, (0.5,), {})] if tokens else []
    return Record(
        str(next(NUMBERS)),
        "trial",
        "a",
        0,
        {},
        {"train_flops": 800.0},
        "",
        seen=seen,
        spans=list(spans),
        **more,
    )


def accounts_of(config: SearchConfig, records: list[Record], finals: int, left: int) -> list[Account]:
    return list(accounts(config, Spending(records), finals, left))


def clock(records: list[Record], now=()) -> float:
    return Spending(records).every(now).clock


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(1, 9)), max_size=8), st.randoms())
def test_the_clock_counts_each_second_once(pieces, rng):
    spans = [(float(begun), float(begun + long)) for begun, long in pieces]
    rng.shuffle(spans)
    covered = {second for begun, ended in spans for second in range(int(begun), int(ended))}
    assert clock([record(*spans[::2]), record(*spans[1::2])]) == len(covered)


def test_what_is_being_trained_counts_by_the_clock():
    assert clock([record((10, 20))], [(record(), 15.0, 27.0)]) == 17


def test_what_crashed_counts_by_the_clock(tmp_path):
    def fault(spec, tokens):
        if tokens == FULL:
            raise Crash("the loss is nan")

    ended = run_search(
        toy(tmp_path, "search.trials=1", "search.keep=1"), tmp_path / "run", FakeTraining(fault)
    )
    (crashed,) = ended.state.done()
    assert crashed.status == "crashed"
    assert len(crashed.spans) == 3


@pytest.mark.parametrize(
    ("rows", "read"),
    [(["3,3072", "5,5120"], 5120), (["1,1024"], 4096), (["a,b"], 4096), ([], 4096), (None, 4096)],
    ids=["later", "earlier", "damaged", "empty", "none"],
)
def test_what_crashed_counts_up_to_the_last_row_of_its_metrics(tmp_path, rows, read):
    def train(spec, folder, until, report):
        if until is None:
            if rows is not None:
                (folder / "metrics.csv").write_text("\n".join(["step,tokens", *rows, ""]))
            raise Crash("the loss is nan")
        return fake(spec, folder, until, report)

    fake = FakeTraining()
    asked = ("search.trials=1", "search.keep=1", "search.tokens=1M", "search.flops=1000T")
    ended = run_search(toy(tmp_path, *asked), tmp_path / "run", train)
    (crashed,) = ended.state.done()
    assert (crashed.status, crashed.tokens) == ("crashed", 4096)
    assert [account.spent for account in ended.state.accounts()] == [
        read,
        pytest.approx(crashed.costs["train_flops"] * read / FULL),
    ]


def test_a_run_that_has_just_begun_has_taken_no_time(tmp_path):
    spent = []

    def watch(event, state):
        if event == "started":
            spent.extend(account.spent for account in state.accounts())

    run_search(
        toy(tmp_path, "search.trials=2", "search.time_limit=2h"), tmp_path / "run", FakeTraining(), watch
    )
    assert len(spent) == 2
    assert max(spent) < 3600


def test_finals_in_training_are_kept_aside_until_they_end(tmp_path):
    reserved = []

    def watch(event, state):
        if event == "started" and state.running.kind == "final":
            reserved.extend(account.aside for account in state.accounts())

    asked = ("search.trials=3", "search.rungs=[]", "search.tokens=1M", "search.seeds=2", "search.finalists=1")
    run_search(toy(tmp_path, *asked), tmp_path / "run", FakeTraining(), watch)
    assert reserved == [2 * FULL, FULL]


def test_a_record_without_spans_counts_from_its_start():
    assert clock([record(started=100, seconds=7)]) == 7


def test_flops_are_those_of_the_tokens_read():
    assert flops(record(tokens=25, whole=100)) == 200
    assert flops(record(whole=100)) == 0
    assert flops(record(tokens=100, status="finished")) == 800


def test_runs_of_finals_are_kept_aside_at_the_cost_of_the_dearest():
    config = SearchConfig.model_validate({"objectives": [{"maximize": "accuracy"}], "tokens": 1000})
    done = [record(tokens=100, status="finished"), record(tokens=120, status="stopped")]
    (account,) = accounts_of(config, done, 3, 3)
    assert (account.spent, account.aside, account.limit) == (220, 300, 1000)
    assert not account.used_up
    (account,) = accounts_of(config, done, 8, 8)
    assert account.aside == 500
    assert not account.used_up
    many = [replace(each, name=f"{n}") for n, each in enumerate([*done, *done, *done])]
    (account,) = accounts_of(config, many, 8, 8)
    assert account.used_up
    assert not account.gone
    assert str(account) == "660 of 1k tokens (500 kept for finals)"


def test_finals_that_take_less_than_was_kept_leave_nothing_for_further_trials():
    """Else the finalists would change while they are trained again."""
    config = SearchConfig.model_validate({"objectives": [{"maximize": "accuracy"}], "tokens": 1000})
    trials = [record(tokens=100, status="finished") for _ in range(6)]
    finals = [replace(record(tokens=20, status="finished"), kind="final") for _ in range(4)]
    for ended in range(5):
        (account,) = accounts_of(config, [*trials, *finals[:ended]], 4, 4 - ended)
        assert account.used_up
        assert account.spent + account.aside == 600 + 20 * ended + 100 * (4 - ended)
        assert not account.gone


def test_workers_side_by_side_keep_less_of_the_clock_aside():
    config = SearchConfig.model_validate({"objectives": [{"maximize": "accuracy"}], "time_limit": 100})
    one = [record((0, 10), seconds=10, status="finished"), record((10, 20), seconds=10, status="finished")]
    two = [record((0, 10), seconds=10, status="finished"), record((0, 10), seconds=10, status="finished")]
    assert accounts_of(config, one, 4, 4)[0].aside == 40
    assert accounts_of(config, two, 4, 4)[0].aside == 20


def test_what_was_imported_is_not_charged():
    config = SearchConfig.model_validate({"objectives": [{"maximize": "accuracy"}], "tokens": 1000})
    assert accounts_of(config, [record(tokens=100, imported="runs/old")], 0, 0)[0].spent == 0


@pytest.mark.parametrize("trials", ["search.trials=null", "search.trials=50"])
def test_no_trial_begins_once_the_tokens_are_spent(tmp_path, trials):
    ended = run_search(
        toy(tmp_path, trials, "search.rungs=[]", "search.tokens=20k"), tmp_path / "run", FakeTraining()
    )
    # the third one begins at 16,384 and ends above
    assert [row["tokens"] for row in board(tmp_path / "run")] == [str(FULL)] * 3
    assert "the budget of 20k tokens is used up" in ended.reason


def test_no_trial_begins_once_the_flops_are_spent(tmp_path):
    space = toy(tmp_path, "search.trials=null", "search.rungs=[]", "search.flops=2G")
    ended = run_search(space, tmp_path / "run", FakeTraining())
    spent = [flops(each) for each in ended.state.ledger]
    assert sum(spent[:-1]) < 2e9 <= sum(spent)


def test_no_trial_begins_once_the_time_is_up(tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("time.time", lambda: now[0])

    def train(spec, tokens):
        now[0] += 10

    space = toy(tmp_path, "search.trials=null", "search.rungs=[]", "search.time_limit=25s")
    ended = run_search(space, tmp_path / "run", FakeTraining(train))
    assert len(ended.state.done()) == 3
    # a pause costs nothing, and a longer limit goes on
    now[0] += 10_000
    space = toy(tmp_path, "search.trials=null", "search.rungs=[]", "search.time_limit=35s")
    assert len(run_search(space, tmp_path / "run", FakeTraining(train)).state.done()) == 4


def test_finals_stay_within_the_budget(tmp_path):
    space = toy(
        tmp_path,
        "search.trials=null",
        "search.rungs=[]",
        f"search.tokens={12 * FULL}",
        "search.seeds=2",
        "search.finalists=2",
        "search.lr_sweep=[0.5]",
    )
    ended = run_search(space, tmp_path / "run", FakeTraining())
    # two finalists take six runs
    assert len(ended.state.done()) == 6
    assert len(ended.state.ledger.finals()) == 6
    assert ended.reason == "the budget of 98.3k tokens is used up after 6 trials, 6 of 6 finals"


def test_a_budget_that_is_gone_begins_no_final(tmp_path):
    space = toy(tmp_path, "search.rungs=[]", f"search.tokens={2 * FULL}", "search.seeds=2")
    first = run_search(space, tmp_path / "run", FakeTraining())
    # nothing was known of their cost when the first one began
    assert len(first.state.done()) == 1
    assert len(first.state.ledger.finals()) == 1
