"""The halving rule as laws over values, and the fronts against their definition."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from search.goals import dominates
from search.rungs import fronts, goes_on, milestones

KEEP = st.floats(0.01, 1)
number = st.integers(-3, 3).map(float)
one, two = st.tuples(number), st.tuples(number, number)
crowd = st.one_of(st.tuples(one, st.lists(one)), st.tuples(two, st.lists(two)))


@given(crowd, KEEP)
def test_who_nobody_beats_is_never_stopped(candidate, keep):
    own, others = candidate
    if not any(dominates(other, own) for other in others):
        assert goes_on(own, others, keep)


@given(
    st.integers(1, 2).flatmap(lambda n: st.tuples(*[st.lists(number, min_size=n, max_size=n)] * 2)),
    st.data(),
    KEEP,
)
def test_a_better_value_never_turns_going_on_into_stopping(pair, data, keep):
    low, high = (tuple(map(pick, *pair)) for pick in (min, max))
    others = data.draw(st.lists(two if len(low) == 2 else one))
    assert goes_on(high, others, keep) or not goes_on(low, others, keep)


@given(crowd, KEEP, KEEP)
def test_keeping_more_never_stops_more(candidate, one_share, other_share):
    least, most = sorted((one_share, other_share))
    assert goes_on(*candidate, most) or not goes_on(*candidate, least)


@given(crowd)
def test_keep_1_stops_nobody(candidate):
    assert goes_on(*candidate, 1.0)


@given(crowd, KEEP, st.randoms())
def test_the_order_of_the_others_does_not_matter(candidate, keep, random):
    own, others = candidate
    mixed = random.sample(others, len(others))
    assert goes_on(own, others, keep) == goes_on(own, mixed, keep)


@given(st.lists(number, unique=True, min_size=1, max_size=7), KEEP)
def test_one_objective_keeps_exactly_the_top_share_of_those_seen(values, keep):
    survivors = [v for v in values if goes_on((v,), [(w,) for w in values if w != v], keep)]
    assert survivors == sorted(values, reverse=True)[: len(survivors)] or set(survivors) == set(
        sorted(values, reverse=True)[: len(survivors)]
    )
    assert len(survivors) == max(1, -(-keep * len(values) // 1))


@given(st.lists(two))
def test_fronts_peel_off_what_nobody_left_beats(values):
    expected, left, rank = {}, set(values), 0
    while left:
        front = {v for v in left if not any(dominates(w, v) for w in left)}
        expected |= dict.fromkeys(front, rank)
        left, rank = left - front, rank + 1
    assert fronts(values) == [expected[v] for v in values]


@given(st.lists(st.integers(1, 50), unique=True).map(sorted), st.integers(1, 50))
def test_a_run_is_looked_at_at_each_rung_before_its_end_and_there(rungs, tokens):
    stops = milestones(rungs, tokens)
    assert stops == sorted(set(stops))
    assert stops[-1] == tokens
    assert set(stops) == {rung for rung in rungs if rung < tokens} | {tokens}
