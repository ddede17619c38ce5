"""The halving rule as laws over values, and the fronts against their definition."""

from __future__ import annotations

import itertools
import math
import random
from statistics import fmean

import pytest
from fake_training import BASELINE, FakeTraining, board, toy
from hypothesis import given
from hypothesis import strategies as st

from composer.costs.counting.plan import count
from composer.costs.tracing.traced_cost import measures
from composer.language.load import load, loads
from composer.language.schema.search import FlopRungs, Objective
from search.compare.fronts import Fronts, fronts
from search.compare.rungs import Arrivals, milestones, reached
from search.compare.rungs import goes_on as goes_on_among
from search.objectives import Goals, dominates
from search.run.preview import preview
from search.run.study import run_search
from search.store.digest import Digest
from search.store.ledger import Record, Seen


def goes_on(own, others, keep, measured=0):
    return goes_on_among(own, Fronts(others), keep, measured)


def holds(record, records, goals, keep):
    others = Digest(other for other in records if other is not record)
    return Arrivals(others, goals).holds(record, keep)


KEEP = st.floats(0.01, 1)
number = st.integers(-3, 3).map(float)
one, two, *more = (st.tuples(*[number] * n) for n in range(1, 5))
crowd = st.one_of(*(st.tuples(values, st.lists(values)) for values in (one, two, *more)))


@given(crowd, KEEP, st.data())
def test_the_best_in_the_measured_objective_always_goes_on(candidate, keep, data):
    own, others = candidate
    measured = data.draw(st.integers(0, len(own) - 1))
    # among equals in it, one that no other beats
    if all(own[measured] >= other[measured] for other in others) and not any(
        dominates(other, own) for other in others
    ):
        assert goes_on(own, others, keep, measured)


@given(st.lists(st.tuples(number, number), unique=True, min_size=1, max_size=12), KEEP, st.integers(0, 1))
def test_on_one_front_exactly_the_share_that_is_kept_goes_on(values, keep, measured):
    front = [point for point, rank in zip(values, fronts(values), strict=True) if rank == 0]
    going = [point for point in front if goes_on(point, [q for q in front if q != point], keep, measured)]
    assert len(going) == math.ceil(keep * len(front))
    assert (
        min(point[measured] for point in going)
        == sorted((point[measured] for point in front), reverse=True)[len(going) - 1]
    )


def test_the_share_that_goes_on_approaches_keep_whatever_the_front_holds():
    # accuracy and cost trade off without exception: all are on the first front
    points = [(float(n), float(-n)) for n in random.Random(0).sample(range(400), 400)]
    went = [goes_on(point, points[:n], 0.4) for n, point in enumerate(points)]
    assert fmean(went[200:]) == pytest.approx(0.4, abs=0.06)


def test_the_cheapest_candidate_is_stopped_where_it_is_not_among_the_best():
    dear = [(0.9, -9.0), (0.8, -8.0), (0.7, -7.0)]
    assert not goes_on((0.1, -1.0), dear, 0.5)
    assert goes_on((0.1, -1.0), dear, 1.0)


@given(
    st.integers(1, 4).flatmap(lambda n: st.tuples(*[st.lists(number, min_size=n, max_size=n)] * 2)),
    st.data(),
    KEEP,
)
def test_a_better_value_never_turns_going_on_into_stopping(pair, data, keep):
    low, high = (tuple(map(pick, *pair)) for pick in (min, max))
    others = data.draw(st.lists([one, two, *more][len(low) - 1]))
    measured = data.draw(st.integers(0, len(low) - 1))
    assert goes_on(high, others, keep, measured) or not goes_on(low, others, keep, measured)


@given(crowd, KEEP, KEEP)
def test_keeping_more_never_stops_more(candidate, one_share, other_share):
    least, most = sorted((one_share, other_share))
    last = len(candidate[0]) - 1
    assert goes_on(*candidate, most, last) or not goes_on(*candidate, least, last)


@given(crowd)
def test_keep_1_stops_nobody(candidate):
    assert goes_on(*candidate, 1.0)


@given(crowd, KEEP, st.randoms())
def test_the_order_of_the_others_does_not_matter(candidate, keep, rng):
    own, others = candidate
    mixed = rng.sample(others, len(others))
    assert goes_on(own, others, keep) == goes_on(own, mixed, keep)


@given(st.lists(number, unique=True, min_size=1, max_size=7), KEEP)
def test_one_objective_keeps_exactly_the_top_share_of_those_seen(values, keep):
    survivors = [v for v in values if goes_on((v,), [(w,) for w in values if w != v], keep)]
    assert survivors == sorted(values, reverse=True)[: len(survivors)] or set(survivors) == set(
        sorted(values, reverse=True)[: len(survivors)]
    )
    assert len(survivors) == max(1, -(-keep * len(values) // 1))


@given(st.one_of(*(st.lists(values) for values in (two, *more))))
def test_fronts_peel_off_what_nobody_left_beats(values):
    expected, left, rank = {}, set(values), 0
    while left:
        front = {v for v in left if not any(dominates(w, v) for w in left)}
        expected |= dict.fromkeys(front, rank)
        left, rank = left - front, rank + 1
    assert fronts(values) == [expected[v] for v in values]


@given(st.one_of(*(st.lists(values, max_size=30) for values in (one, two, *more))), st.data())
def test_fronts_kept_up_to_date_are_those_sorted_anew(values, data):
    fronts_ = Fronts()
    for number, value in enumerate(values, 1):
        # the first are sorted in together, those after them one by one
        fronts_.add(value)
        if number > data.draw(st.integers(8, 20), label="asked from then on"):
            fronts_.layers()
    own = data.draw(st.sampled_from(values)) if values else ()
    ranks = fronts(values)
    layers = [{v for v, rank in zip(values, ranks, strict=True) if rank == n} for n in range(len({*ranks}))]
    assert list(map(set, fronts_.layers())) == layers
    assert sorted(fronts_) == sorted(values)
    everyone = [own, *values]
    of_all = fronts(everyone)
    for measured in range(len(own)):
        places = [(rank, -v[measured]) for rank, v in zip(of_all, everyone, strict=True)]
        assert fronts_.ahead(own, measured) == sum(place < places[0] for place in places)


def rival(tokens=8192, batch=1024):
    return loads(BASELINE, overrides=[f"train.tokens={tokens}", f"train.batch_tokens={batch}"])


@given(st.lists(st.integers(1, 5000), unique=True).map(sorted), st.integers(1, 5000))
def test_a_run_is_looked_at_at_each_rung_before_its_end_and_there(rungs, tokens):
    stops = milestones(rungs, rival(tokens), {})
    assert stops == sorted(set(stops))
    assert stops[-1] == tokens
    assert set(stops) == {rung for rung in rungs if rung < tokens} | {tokens}


@given(
    st.integers(64, 5000),
    st.integers(64, 400),
    st.lists(st.floats(0, 1.5, exclude_min=True), min_size=1, max_size=5, unique=True).map(sorted),
)
def test_rungs_in_flops_are_the_first_whole_steps_that_reach_them(tokens, batch, shares):
    spec = rival(tokens, batch)
    whole, per_step = count(spec).train_flops, spec.train.tokens_per_step
    marks = sorted({max(1, int(share * whole)) for share in shares})
    *stops, end = milestones(FlopRungs(flops=marks), spec, {"train_flops": whole})
    assert end == tokens
    assert all(stop < end for stop in stops)
    assert stops == sorted(stops)
    assert all(stop % per_step == 0 for stop in stops)
    one_step = whole / spec.train.steps
    for mark, stop in zip(marks, stops, strict=False):
        assert mark <= stop // per_step * one_step * (1 + 1e-12)
        assert stop // per_step * one_step < (mark + one_step) * (1 + 1e-12)
    # what is left out is reached in the last step, or never
    for mark in marks[len(stops) :]:
        assert mark > (spec.train.steps - 1) * one_step * (1 - 1e-12)
    if len(stops) > 1 and min(b - a for a, b in itertools.pairwise(marks)) > one_step:
        assert len(set(stops)) == len(stops)


def record(name, values, status="stopped"):
    seen = [
        Seen(1024 * (i + 1), value if isinstance(value, tuple) else (value,), {})
        for i, value in enumerate(values)
    ]
    return Record(name, "trial", name, int(name), {}, {}, "", status, seen)


def test_who_ended_before_a_rung_stands_there_with_what_it_came_to():
    cheap, dear = record("0", [0.1, 0.4], "finished"), record("1", [0.1, 0.2, 0.3])
    assert [reached(cheap, rung) for rung in range(4)] == [*cheap.seen, cheap.seen[1], cheap.seen[1]]
    assert [reached(dear, rung) for rung in range(4)] == [*dear.seen, None]
    crashed = record("2", [0.9], "crashed")
    assert reached(crashed, 1) is None


def test_a_front_is_ranked_by_what_training_measures_wherever_that_stands():
    goals = Goals([Objective(minimize="flops_per_token"), Objective(maximize="accuracy")])
    records = [record(str(n), [(float(n), n / 10)]) for n in range(1, 5)]
    going = [each.name for each in records if holds(each, records, goals, 0.5)]
    assert going == ["3", "4"]


def test_a_candidate_is_held_against_those_that_ended_with_less():
    goals = Goals([Objective(maximize="accuracy")])
    cheap, dear = record("0", [0.1, 0.4], "finished"), record("1", [0.1, 0.2, 0.3], "running")
    better = record("1", [0.1, 0.2, 0.5], "running")
    stopped = record("2", [0.1, 0.9])
    assert not holds(dear, [cheap, dear, stopped], goals, 0.5)
    assert holds(better, [cheap, better, stopped], goals, 0.5)


@pytest.mark.parametrize(
    ("marks", "expected"),
    # some end before the second; both in one step of the dear ones
    [([500_000_000, 1_000_000_000], {2, 3}), ([100_000_000, 110_000_000], {3})],
)
def test_a_search_with_rungs_in_flops_trains_to_exactly_these(tmp_path, marks, expected):
    fake = FakeTraining()
    rungs = f"search.rungs={{flops: [{', '.join(map(str, marks))}]}}"
    space = toy(tmp_path, rungs, "search.trials=14", "search.sampler=random", baseline="rival.yaml")
    ended = run_search(space, tmp_path / "run", fake)
    lengths = set()
    for row in board(tmp_path / "run"):
        spec = load(tmp_path / "run" / row["folder"] / "spec.yaml")
        stops = milestones(FlopRungs(flops=marks), spec, measures(count(spec)))
        lengths.add(len(stops))
        pieces = [(start, end) for folder, start, end in fake.calls if folder == row["folder"]]
        assert pieces == list(itertools.pairwise([0, *dict.fromkeys(stops)]))[: len(pieces)]
        assert (row["status"] == "finished") == (int(row["rung"]) == len(stops))
    assert {record.status for record in ended.state.done()} == {"finished", "stopped"}
    assert lengths == expected


def test_a_dry_run_tells_how_many_points_are_trained_beyond_each_rung_in_flops(tmp_path):
    shown = preview(toy(tmp_path, "search.rungs={flops: [186M, 1G, 900G]}"), 60)
    feasible = [point.costs["train_flops"] for point in shown.points if point.verdict == "feasible"]
    lines = [line for line in shown.lines() if line.startswith("trained beyond")]
    counts = [int(line.split(": ")[1].split()[0]) for line in lines]
    assert [line.split(":")[0] for line in lines] == [
        f"trained beyond {mark} FLOPs" for mark in ("186M", "1G", "900G")
    ]
    # one step in eight may be what is left to the mark
    for mark, number in zip([186e6, 1e9], counts, strict=False):
        assert sum(flops * 7 / 8 >= mark for flops in feasible) == number
    assert counts[2] == 0 < counts[1] < counts[0]
