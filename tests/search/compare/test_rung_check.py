"""A rung whose ranking does not predict the end stops nobody any more."""

from __future__ import annotations

import io
import json
import math
from datetime import datetime
from itertools import combinations
from statistics import fmean

import numpy as np
import pytest
from fake_training import TWO, FakeTraining, toy
from hypothesis import given
from hypothesis import strategies as st

from composer.language.schema.search import Objective
from search.compare import rung_check
from search.compare.kendall import kendall
from search.compare.rung_check import FEWEST, LEAST, latest_pairs
from search.compare.rungs import Arrivals
from search.objectives import Goals
from search.progress.events import Events
from search.progress.table import summary
from search.run.study import run_search
from search.store.digest import Digest
from search.store.ledger import Record, Seen, record_of, record_text

GOALS = Goals([Objective(maximize="accuracy")])
MANY = ("search.trials=28", "search.sampler=random", "search.rungs=[2Ki, 4Ki]", "search.keep=0.7")
values = st.integers(0, 6).map(float)


class Misleading(FakeTraining):
    """What is good at the first rung is bad later."""

    def __call__(self, spec, folder, until, report):
        result = super().__call__(spec, folder, until, report)
        if result.tokens == 2048:
            result.metrics["accuracy"] = 1 - result.metrics["accuracy"]
        return result


def tau_bound(records, rung, goals):
    return rung_check.tau_bound(latest_pairs(reversed(records), rung, goals))


def arrivals(records):
    return Arrivals(Digest(records), GOALS)


def finished(pairs):
    return [
        Record(str(n), "trial", str(n), n, {}, {}, "", "finished", [Seen(1, (a,), {}), Seen(2, (b,), {})])
        for n, (a, b) in enumerate(pairs)
    ]


@given(st.lists(st.tuples(values, values), min_size=2, max_size=20))
def test_tau_is_agreeing_less_disagreeing_pairs_over_those_that_are_ranked(pairs):
    ranked = [((a > b) - (a < b), (x > y) - (x < y)) for (a, x), (b, y) in combinations(pairs, 2)]
    agree, ones, others = (sum(one[i] * one[j] for one in ranked) for i, j in ((0, 1), (0, 0), (1, 1)))
    tau = kendall(*zip(*pairs, strict=True))
    assert tau == pytest.approx(agree / math.sqrt(ones * others)) if ones * others else math.isnan(tau)
    # a weight of two is the same as being there twice
    doubled = kendall(*zip(*pairs, pairs[0], strict=True))
    weighted = kendall(*zip(*pairs, strict=True), weights=np.array([2.0] + [1.0] * (len(pairs) - 1)))
    assert doubled == pytest.approx(weighted, nan_ok=True)


@given(st.lists(st.tuples(values, values), max_size=30))
def test_nothing_is_concluded_from_few_runs_and_the_bound_is_above_tau(pairs):
    bound = tau_bound(finished(pairs), 0, GOALS)
    assert (bound is None) == (len(pairs) < FEWEST)
    if bound is not None:
        tau = kendall(*zip(*pairs, strict=True))
        assert (bound == 1) if math.isnan(tau) else (max(tau, -0.999) <= bound <= 1)


def test_the_same_tau_over_more_runs_is_surer():
    turned = [(float(n), float(-n)) for n in range(8)]
    assert tau_bound(finished(turned * 4), 0, GOALS) < tau_bound(finished(turned), 0, GOALS)


@given(st.permutations(range(12)))
def test_a_rung_is_out_of_use_exactly_below_the_least_tau(order):
    records = finished([(float(n), float(m)) for n, m in enumerate(order)])
    bound = tau_bound(records, 0, GOALS)
    assert arrivals(records).out_of_use(0) == (bound if bound < LEAST else None)


def test_what_was_stopped_or_ended_at_the_rung_says_nothing_about_it():
    records = finished([(float(n), float(-n)) for n in range(FEWEST)])
    assert tau_bound(records, 0, GOALS) < LEAST
    records[0].status = "stopped"
    assert tau_bound(records, 0, GOALS) is None
    assert tau_bound(records, 1, GOALS) is None


def test_a_rung_out_of_use_lets_all_pass_notes_why_and_stays_so():
    records = finished([(float(n), float(-n)) for n in range(FEWEST)])
    worst = Record("90", "trial", "90", 90, {}, {}, "", "running", [Seen(1, (-9.0,), {})])
    assert arrivals(records).holds(worst, 0.1)
    assert worst.seen[0].tau_bound == tau_bound(records, 0, GOALS)
    # even though the rung would rank well by now
    well = finished([(float(n), float(n)) for n in range(30)])
    later = Record("91", "trial", "91", 91, {}, {}, "", "running", [Seen(1, (-9.0,), {})])
    assert arrivals([*well, worst]).holds(later, 0.1)
    assert later.seen[0].tau_bound == worst.seen[0].tau_bound
    fresh = Record("92", "trial", "92", 92, {}, {}, "", "running", [Seen(1, (-9.0,), {})])
    assert not arrivals(well).holds(fresh, 0.1)
    assert fresh.seen[0].tau_bound is None


def test_records_keep_it_and_those_from_before_have_none():
    record = finished([(1.0, 2.0)])[0]
    record.seen[0].tau_bound = 0.25
    assert record_of(record_text(record)) == record
    stored = json.loads(record_text(record))
    del stored["seen"][0]["tau_bound"]
    assert record_of(json.dumps(stored)).seen[0].tau_bound is None


def watched(folder, train, *more):
    text = io.StringIO()
    events = Events(text, folder / "run", "toy")
    ended = run_search(toy(folder, *MANY, *more), folder / "run", train, events)
    events.end(ended.state, ended.reason, None)
    return ended, [json.loads(line) for line in text.getvalue().splitlines()]


@pytest.mark.parametrize("goals", [(), (TWO,)], ids=["one", "two"])
def test_a_misleading_rung_is_moved_and_the_search_says_so(tmp_path, goals):
    from search.report.page import page
    from search.report.read import read

    ended, events = watched(tmp_path, Misleading(), *goals)
    trials = ended.state.ledger.trials()
    spared = [each for each in trials if each.seen[0].tau_bound is not None]
    assert 0 < len(spared) < len(trials)
    first = int(spared[0].name)
    assert [each.name for each in spared] == [str(n) for n in range(first, 28)]
    assert all(len(each.seen) > 1 for each in spared)
    # the next rung goes on deciding
    assert 0.3 < fmean(each.status == "finished" for each in spared) < 1
    moved = events[-1]["moved_rungs"]
    assert [(each["rung"], each["since"]) for each in moved] == [(2048, str(first))]
    assert -1 < moved[0]["tau_bound"] < LEAST
    message = f"the rung at 2.05k stops no trial from trial {first} on (the rung at 4.1k decides)"
    assert sum(event["event"] == "note" and message in event["note"] for event in events) == 1
    assert any(message in line for line in summary(tmp_path / "run", ended.state, "done"))
    html = page(read(tmp_path / "run"), datetime(2026, 1, 1))
    assert message[1:] in html


def test_a_rung_that_ranks_well_is_not_moved(tmp_path):
    ended, events = watched(tmp_path, FakeTraining())
    assert events[-1]["moved_rungs"] == []
    assert all(seen.tau_bound is None for each in ended.state.ledger for seen in each.seen)


def test_a_killed_search_moves_the_same_rung_at_the_same_trial(tmp_path):
    class Killed(BaseException):
        pass

    steps = 0

    def fault(spec, tokens):
        nonlocal steps
        steps += 1
        if steps % 3 == 0:
            raise Killed

    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole = run_search(toy(tmp_path / "whole", *MANY), tmp_path / "whole" / "run", Misleading())
    train = Misleading(fault=fault)
    for _ in range(100):
        try:
            killed = run_search(toy(tmp_path / "killed", *MANY), tmp_path / "killed" / "run", train)
            break
        except Killed:
            pass
    bounds = [
        [(each.name, each.status, [seen.tau_bound for seen in each.seen]) for each in ended.state.ledger]
        for ended in (whole, killed)
    ]
    assert bounds[0] == bounds[1]
    assert any(bound is not None for *_, bounds in bounds[0] for bound in bounds)
