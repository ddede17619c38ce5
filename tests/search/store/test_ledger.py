"""Records that were read share no value that a worker changes."""

import json

from search.store.ledger import Record, Seen, record_of, record_text


def test_two_records_with_equal_values_change_apart():
    text = record_text(
        Record(
            "1",
            "trial",
            "a",
            1,
            {"lr": 0.1},
            {"params": 5},
            "trials/1",
            seen=[Seen(1, (1.0,), {"loss": 2.0})],
        )
    )
    one, other = record_of(text), record_of(text)
    assert one == other
    for values in (one.params, one.origin, one.again, one.seen[0].metrics):
        values["changed"] = 1
    one.seen.append(Seen(2, (2.0,), {}))
    one.spans.append((0.0, 1.0))
    assert record_text(other) == text
    assert json.loads(record_text(one)) != json.loads(text)
