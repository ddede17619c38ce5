"""Trials per hour of four workers against one, on training that sleeps, in a folder and in a database."""

import json

import pytest
from postgresql import Server, missing
from worker import join, start

EACH, SECONDS = 4, 2.0


def rate(folder, count, storage):
    """Trials per hour from when each worker has ended one to the end, so without the start of processes."""
    folder.mkdir()
    join(start(folder, count, SECONDS, f"search.trials={EACH * count}", "search.rungs=[]", storage=storage))
    records = [json.loads(path.read_text()) for path in (folder / "run" / "records").glob("trial-*.json")]
    ends = sorted(record["ended"] for record in records)
    assert len(ends) == EACH * count
    return 3600 * (len(ends) - count) / (ends[-1] - ends[count - 1])


@pytest.mark.benchmark
@pytest.mark.slow
@pytest.mark.parametrize("store", ["folder", "database"])
def test_four_workers_against_one(tmp_path, capsys, store):
    if store == "database" and missing():
        pytest.skip(missing())
    server = Server() if store == "database" else None
    try:
        url = {count: server.url(f"n{count}") if server else "" for count in (1, 4)}
        one, four = (rate(tmp_path / str(count), count, url[count]) for count in (1, 4))
    finally:
        if server:
            server.remove()
    with capsys.disabled():
        message = f"one worker {one:.0f} trials/h, four {four:.0f}: {four / one:.2f} times as many"
        print(f"\n{store}, {SECONDS:g} s a trial: {message}")
