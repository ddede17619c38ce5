"""What is kept up to date record by record is what a look at all records would find."""

from __future__ import annotations

import random
from statistics import fmean

import pytest

from composer.language.schema.search import Objective
from search.compare.pareto import Pareto
from search.compare.worst import Worst
from search.objectives import Goals
from search.progress.durations import Durations
from search.store.digest import Digest
from search.store.ledger import Record, Seen, in_order

GOALS = [
    Goals([Objective(maximize="accuracy")]),
    Goals([Objective(minimize="flops_per_token"), Objective(maximize="accuracy")]),
    Goals([Objective(maximize="accuracy"), Objective(minimize="loss"), Objective(minimize="params")]),
]


def change(record: Record, goals: Goals, rng: random.Random) -> None:
    """Let a record reach a milestone, end, or, rarely, be edited."""
    if record.status == "running" or rng.random() < 0.1:
        values = tuple(float(rng.randint(0, 6)) for _ in goals.objectives)
        record.seen.append(Seen(len(record.seen) + 1, values, {}))
        record.seconds += rng.random()
    record.status = rng.choice(["running", "stopped", "finished", "crashed"])


@pytest.mark.parametrize("goals", GOALS)
def test_the_worst_the_front_and_the_durations(goals):
    rng, digest = random.Random(0), Digest()
    records = [Record(str(n), "trial", f"{n}", n, {}, {}, "") for n in range(30)]
    records += [Record(str(n), "baseline", f"b{n}", None, {}, {}, "") for n in range(3)]
    records += [Record(str(n), "final", f"f{n}", None, {}, {}, "", again={"of": "trial-0"}) for n in range(5)]
    early = rng.sample(records, 10)
    for record in early:
        change(record, goals, rng)
        digest.update(record)
    worst, pareto, durations = Worst(digest, goals), Pareto(goals, early), Durations(early)
    digest.follow(pareto.update)
    digest.follow(durations.update)
    for _ in range(300):
        record = rng.choice(records)
        change(record, goals, rng)
        digest.update(record)
        known = sorted(digest.records.values(), key=in_order)
        searched = [each for each in known if each.kind != "final"]
        assert worst({}) == goals.worst([each.values for each in searched if each.values], {})
        finished = {each.key: each.values for each in searched if each.status == "finished"}
        assert [each.key for each in pareto.records()] == goals.front(finished)
        ended = [each for each in known if each.status != "running" and each.seconds]
        trials = [each.seconds for each in ended if each.role == "trial"]
        if trials:
            assert durations.of_trials() == pytest.approx(fmean(trials))
        assert durations.finals == sum(each.kind == "final" for each in ended)
