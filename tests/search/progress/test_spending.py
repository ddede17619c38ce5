"""What a search has spent is kept up to date as records change, and no proposal looks at all of them."""

from __future__ import annotations

import pytest
from fake_training import FakeTraining, toy
from hypothesis import given
from hypothesis import strategies as st
from samples import samples

from search.compare import rung_check
from search.progress.covered import Covered
from search.progress.spending import Spending
from search.run.publishing import Publisher
from search.run.study import run_search
from search.store.digest import Digest
from search.store.ledger import Record, Seen

SPANS = st.tuples(st.integers(0, 60), st.integers(0, 9)).map(lambda at: (float(at[0]), float(at[0] + at[1])))
RECORDS = st.builds(
    lambda kind, name, status, tokens, spans, imported, adopted, lost: Record(
        str(name),
        kind,
        f"{kind}{name}",
        None,
        {},
        {"train_flops": 64.0},
        "",
        status,
        [Seen(tokens, (0.5,), {})] if tokens else [],
        seconds=sum(ended - begun for begun, ended in spans),
        whole=16,
        spans=spans,
        imported=imported,
        adopted=adopted if kind == "trial" else "",
        lost=lost,
    ),
    st.sampled_from(["trial", "baseline", "final"]),
    st.integers(0, 4),
    st.sampled_from(["running", "running", "finished", "stopped", "crashed"]),
    st.integers(0, 16),
    st.lists(SPANS, max_size=3),
    st.sampled_from(["", "", "", "elsewhere"]),
    st.sampled_from(["", "", "rival"]),
    st.integers(0, 3),
)


@samples(200)
@given(st.lists(SPANS, max_size=12), st.lists(SPANS, max_size=3))
def test_what_is_covered_is_counted_once(spans, more):
    def seconds(spans: list[tuple[float, float]]) -> set[int]:
        return {second for begun, ended in spans for second in range(int(begun), int(ended))}

    covered = Covered(spans)
    assert covered.total == len(seconds(spans))
    assert covered.with_more(more) == len(seconds([*spans, *more]))
    assert covered.total == len(seconds(spans)), "more spans were added"


def scanned(records: list[Record], now) -> tuple[float, ...]:
    """What records say when all of them are looked at."""
    own = [record for record in records if not record.imported]
    full = [record for record in own if record.status == "finished"]
    results: list[float] = []
    for runs in (own, [record for record in own if record.kind != "final"]):
        # a record without spans is as if it began at 0
        spans = [span for run in runs for span in run.spans or [(0.0, run.seconds)]]
        spans += [(begun, at) for run, begun, at in now if runs is own or run.kind != "final"]
        clock = len({second for begun, ended in spans for second in range(int(begun), int(ended))})
        results += [sum(run.read for run in runs), sum(4.0 * run.read for run in runs)]
        results += [sum(run.seconds for run in runs), clock]
    for measure in (lambda run: run.read, lambda run: 4.0 * run.read, lambda run: run.seconds):
        results.append(max(map(measure, full), default=0.0))
    return tuple(results)


@samples(200)
@given(st.lists(RECORDS, max_size=20), st.data())
def test_kept_up_to_date_it_is_what_a_look_at_all_records_finds(changes, data):
    known: dict[str, Record] = {}
    spending, digest = Spending(), Digest()
    digest.follow(spending.update)
    for record in changes:
        # a record changes in place, before it is saved and by being saved
        if record.key in known and data.draw(st.booleans(), "in place"):
            for name, value in vars(record).items():
                setattr(known[record.key], name, value)
            record = known[record.key]
        known[record.key] = record
        digest.update(record)
        running = [each for each in known.values() if each.status == "running" and not each.imported]
        now = [(each, 50.0, 57.0) for each in running[:1]]
        for each in running[1:]:
            each.seconds += 1.0
            each.spans.append((70.0, 71.0))
        every, searched, most = spending.every(now), spending.searched(now), spending.most()
        spent = [(each.tokens, each.flops, each.seconds, each.clock) for each in (every, searched)]
        spent.append((most.tokens, most.flops, most.seconds))
        assert sum(spent, ()) == scanned([*known.values()], now)
        for role in ("trial", "baseline", "final"):
            for status in ("running", "finished", "stopped", "crashed"):
                same = [each for each in known.values() if (each.role, each.status) == (role, status)]
                assert digest.count(role, status) == len(same)
                assert digest.count(role, status, imported=True) == sum(bool(each.imported) for each in same)
        assert set(digest.finals) == {key for key, each in known.items() if each.kind == "final"}


class Enough(Exception):
    """Ends a search."""


def test_a_proposal_looks_at_few_records_however_many_there_are(tmp_path, monkeypatch):
    """Of 300 trials trained before, between one run's start and the next: propose, claim, train, tell."""
    monkeypatch.setattr(Publisher, "__call__", lambda publisher: None)
    # of results at a rung, those of the latest are compared with the end
    monkeypatch.setattr(rung_check, "_LAST", 5)
    looked: set[str] = set()
    counts: list[int] = []

    def watch(event, state):
        if event == "begin":
            for number in range(300):
                seen = [Seen(tokens, (0.1,), {"accuracy": 0.1}) for tokens in (2048, 4096, 8192)]
                made = Record(str(number), "trial", f"{number}", number, {}, {}, "", "finished", seen)
                state.ledger.add(made)
            monkeypatch.setattr(Record, "__getattribute__", look, raising=False)
        if event == "started":
            counts.append(len(looked))
            looked.clear()
            if len(counts) > 5:
                raise Enough

    def look(record, name):
        if name in ("status", "kind", "seen", "seconds", "spans"):
            looked.add(object.__getattribute__(record, "name"))
        return object.__getattribute__(record, name)

    budgets = ("search.trials=400", "search.tokens=1G", "search.flops=1000T", "search.time_limit=9h")
    space = toy(tmp_path, *budgets, "search.seeds=2")
    with pytest.raises(Enough):
        run_search(space, tmp_path / "run", FakeTraining(), watch)
    # at first everything is summed up, and those at a rung are ranked
    assert counts[0] >= 300
    assert max(counts[3:]) <= 12
