"""Workers of a search as processes of their own, and what they have to leave behind."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import optuna
from fake_training import FakeTraining, accuracy, toy
from processes import Forked, wait_for

from composer import load
from composer.language.schema.identity import run_hash
from composer.language.space import load_space
from search.run import worker
from search.run.study import run_search

EIGHT = [
    "model.width=16",
    "blocks.expert={type: expert_attention, experts: 4, active: 1, hidden: 16}",
    "stages.0.recur={int: [1, 2]}",
    "search.trials=8",
    "search.keep=1",
    "search.seeds=1",
    "search.finalists=2",
]
"""Overrides that leave a space of eight points, all feasible, and ask for them all and two finals."""


def start(
    root: Path, count: int, seconds: float, *overrides: str, storage: str = "", ahead: float = 0.0
) -> list[Forked]:
    """Start workers on ROOT/run and let them begin together, the clock of each `ahead` of the one before."""
    toy(root)
    workers = [
        Forked(work, root, seconds, storage, ahead * number, *overrides, environment={"OMP_NUM_THREADS": "1"})
        for number in range(count)
    ]
    # of one that has ended, `join` says why
    wait_for(
        lambda: len([*root.glob("ready-*")]) >= count or any(each.poll() is not None for each in workers)
    )
    (root / "go").touch()
    return workers


def join(workers: list[Forked]) -> None:
    """Wait for them to end well."""
    try:
        for worker in workers:
            out, error = worker.communicate(timeout=120)
            assert worker.returncode == 0, out + error
    finally:
        for worker in workers:
            worker.kill()  # nothing, if it has ended


def kills(kill: Callable[..., None], root: Path, stride: int, *where: str) -> int:
    """Kill searches below `root` at every `stride`-th step, in a process of its own; return at how many."""
    process = Forked(kill, root, stride, *where)
    try:
        out, error = process.communicate(timeout=1200)
    finally:
        process.kill()
    assert process.returncode == 0, out + error
    return int(out.split()[0])


def check(root: Path, trials: int, result: optuna.Study, records: list[dict], killed: int = 0) -> None:
    """Hold what a search left against what many workers must not break; all trials trained in full."""
    done = [record for record in records if record["kind"] == "trial"]
    assert sorted(int(record["name"]) for record in done) == list(range(trials))
    assert len({record["identity"] for record in done}) == trials
    for record in done:
        assert record["status"] == "finished"
        spec = load(root / "run" / record["folder"] / "spec.yaml")
        assert run_hash(spec) == record["identity"]
        assert [seen["values"] for seen in record["seen"]] == [
            [accuracy(spec, n)] for n in (2048, 4096, 8192)
        ]
    finals = [record for record in records if record["kind"] == "final"]
    assert len(finals) == len({record["again"]["of"] for record in finals})
    for record in finals:
        assert record["status"] == "finished"
        assert load(root / "run" / record["folder"] / "spec.yaml").train.seed == 1
    # every question is answered, every record told once as itself, and repeats with its last values
    questions = result.get_trials()
    assert {trial.state.name for trial in questions} == {"COMPLETE"}
    runs = [trial.user_attrs["run"] for trial in questions if trial.user_attrs["outcome"] == "feasible"]
    assert sorted(runs) == sorted(record["folder"] for record in done)
    last = {record["folder"]: record["seen"][-1]["values"] for record in records}
    assert all(t.values == last[t.user_attrs["run"]] for t in questions if "run" in t.user_attrs)
    work = Counter((root / "run" / "work.log").read_text().splitlines())
    assert sum(work.values()) - len(work) <= killed
    # of one killed last, a lease stays that nobody is there to take away
    assert killed or not list((root / "run" / "workers").iterdir())


def records(folder: Path) -> list[dict]:
    """The records of a search that keeps them in its folder."""
    return [json.loads(path.read_text()) for path in (folder / "records").glob("*.json")]


def work(root: Path, seconds: float, storage: str, ahead: float, *overrides: str) -> None:
    """Be a worker, whose training sleeps `seconds` for each piece; begin when the file ROOT/go is there."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    clock = time.time
    time.time = lambda: clock() + ahead
    worker.POLL = 0.2 if storage else 0.02
    fake = FakeTraining()

    def training(*arguments):
        time.sleep(seconds)
        return fake(*arguments)

    space = load_space(root / "space.yaml", overrides)
    (root / f"ready-{os.getpid()}").touch()
    wait_for((root / "go").exists)
    run_search(space, root / "run", training, storage=storage or None)
