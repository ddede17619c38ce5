"""A search with many ended trials, and what one more proposal costs.

    export PYTHONPATH=.:tests/search/helpers OMP_NUM_THREADS=1
    python tests/benchmarks/search_load.py fill ROOT 10000 [URL]      # write a search with so many trials
    python tests/benchmarks/search_load.py propose ROOT 50 [URL]      # let one worker add so many
    python tests/benchmarks/search_load.py report ROOT                # write its report
    python tests/benchmarks/search_load.py crowd ROOT 64 10000 600 [URL]

The last lets 64 workers train new trials side by side until there are 10000, or for 600 s; there training
sleeps for 0.1 s between two rungs.

URL is a database (`postgresql://...`); without it the search is in its folder. Training takes no time.
Seconds are of CPU of this process, so a machine that does other work too distorts them little.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from fake_training import FakeTraining

from composer.language.description.show import resolved_yaml
from composer.language.schema.identity import run_hash
from composer.language.space import Space, draw, load_space
from search import optuna_private
from search.compare.rungs import milestones
from search.compare.worst import Worst
from search.objectives import Goals
from search.progress.state import Event, State
from search.propose.candidates import Candidate, Judge, candidate
from search.propose.draft_counts import DRAWN
from search.propose.feasible import IDENTITY, sampler
from search.propose.optuna_adapter import suggest, tell
from search.propose.proposals import PLAN
from search.report.write import write_report
from search.run.open_store import open_search
from search.run.study import run_search
from search.store.digest import Digest
from search.store.folder import JOURNAL
from search.store.journal import open_study
from search.store.ledger import Ledger, Record, Seen
from search.testing.spaces import TEXT
from search.trainer import Trained

_LR = "  batch_tokens: 1Ki\n  lr: {float: [1e-4, 1e-1], log: true}\n"
_SEARCH = "[{maximize: accuracy}, {minimize: flops_per_token}]\n  sampler: random"
_KINDS = 60
"""How many architectures the trials have; they differ in their learning rate."""
_WARM_UP = 5


class Enough(Exception):
    """Ends a worker."""


def space_of(root: Path, trials: int = 1_000_000) -> Space:
    """Return a space of two objectives and more points than any search has trials."""
    root.mkdir(parents=True, exist_ok=True)
    text = TEXT.replace("  batch_tokens: 1Ki\n", _LR).replace("[{maximize: accuracy}]", _SEARCH)
    (root / "space.yaml").write_text(text.replace("trials: 6", f"trials: {trials}"))
    return load_space(root / "space.yaml")


def fill(root: Path, count: int, storage: str | None) -> None:
    """Write a search with so many ended trials; better ones came further."""
    space, rng = space_of(root), random.Random(0)
    assert space.search is not None
    judge, goals = Judge(space), Goals(space.search.objectives)
    kinds = []
    while len(kinds) < _KINDS:
        judged = judge(lambda parameter: draw(parameter, rng))
        if judged.feasible:
            kinds.append(candidate(space, lambda parameter, params=judged.params: params[parameter.name]))
    records, chosen = [], []
    with open_search(space, root / "run", storage) as store, store.lock():
        for number in range(count):
            kind, lr, skill = rng.choice(kinds), 10 ** rng.uniform(-4, -1), rng.random()
            spec = kind.spec.model_copy(update={"train": kind.spec.train.model_copy(update={"lr": lr})})
            reached = milestones(space.search.rungs, spec, kind.costs)[: rng.choice([1, 1, 1, 2, 3])]
            flops, now = kind.costs["flops_per_token"], time.time()
            seen = [
                Seen(tokens, (skill + rng.random() / 10, flops), {"accuracy": skill}) for tokens in reached
            ]
            status = "finished" if len(seen) == 3 else "stopped"
            params = {**kind.params, "train.lr": lr}
            more = {"seconds": 1.0, "worker": "filled", "started": now, "ended": now, "whole": 8192}
            folder = f"trials/{number}"
            record = Record(
                str(number),
                "trial",
                run_hash(spec),
                number,
                params,
                kind.costs,
                folder,
                status,
                seen,
                **more,
            )
            store.put(record)
            records.append(record)
            chosen.append(kind)
            (root / "run" / folder).mkdir(parents=True)
            (root / "run" / folder / "spec.yaml").write_text(resolved_yaml(spec))
    journal = root / "study.journal" if storage else root / "run" / JOURNAL
    study = open_study(
        journal, f"{space.name}-{space.identity()}" if storage else space.name, goals, sampler(space)
    )
    for record, kind in zip(records, chosen, strict=True):
        _tell_study(study, space, record, kind)
    if storage:
        _copy_study(space, root, journal, storage)


def _copy_study(space: Space, root: Path, journal: Path, storage: str) -> None:
    """Write the records of a journal into that of a search in a database of its own."""
    from sqlalchemy import make_url

    from search.store.database_journal import DatabaseJournal

    with open_search(space, root / "run", storage) as store:
        store.study(Goals(space.search.objectives), sampler(space))
    backend = DatabaseJournal(make_url(storage).set(drivername="postgresql+psycopg"), {}, 1)
    for batch in _batches(journal, 1000):
        backend.append_logs(batch)
    backend.close()


def _batches(journal: Path, size: int) -> Iterator[list[dict]]:
    records = [json.loads(line) for line in journal.read_text().splitlines()]
    return (records[at : at + size] for at in range(0, len(records), size))


def _tell_study(study: optuna.Study, space: Space, record: Record, kind: Candidate) -> None:
    """Write a trial of the study, with as many writes as a search makes."""
    plan = {PLAN: record.params, IDENTITY: record.identity}
    # with its point it is proposed at no cost
    trial = optuna_private.ask(study, {"held": {"by": "filled", "until": ""}, **plan})
    trial.set_user_attr(DRAWN, {"costed": 3, "own": 3, "infeasible": 2, "known": 0, "found": 1})
    for name, value in plan.items():
        optuna_private.set_system_attr(study, trial, name, value)
    for parameter in space.parameters:
        if parameter.name in record.params:
            suggest(trial, parameter)
    tell(study, trial, "feasible", kind, record, Worst(Digest(), Goals(space.search.objectives)))


def propose(root: Path, count: int, storage: str | None) -> None:
    """Let one worker add trials, and print what each took."""
    space, times = space_of(root), []

    def watch(event: Event, state: State) -> None:
        if event == "begin":
            start = time.process_time() - began
            print(f"{state.ledger.count()} records, {start:.1f} s until the first proposal, {memory()}")
        if event == "proposed":
            times.append(time.process_time())
            if len(times) > count + _WARM_UP:
                raise Enough

    began = time.process_time()
    try:
        run_search(space, root / "run", FakeTraining(), watch, storage)
    except Enough:
        each = (times[-1] - times[_WARM_UP]) / (len(times) - 1 - _WARM_UP)
        print(f"{1000 * each:.0f} ms of CPU for each trial, everything included; {memory()}")


def report(root: Path) -> None:
    """Write the report, and print its size and what it took."""
    began = time.process_time()
    path = write_report(root / "run")
    print(f"{path.stat().st_size / 1e6:.1f} MB in {time.process_time() - began:.1f} s; {memory()}")


def crowd(root: Path, workers: int, trials: int, seconds: float, storage: str | None) -> None:
    """Let many workers search side by side, and print what each trial took; none may be trained twice."""
    space, until = space_of(root, trials), time.monotonic() + seconds
    began = time.monotonic()
    children = [_forked(partial(_join, space, root / "run", until, storage)) for _ in range(workers)]
    ends = [os.wait4(child, 0) for child in children]
    took = time.monotonic() - began
    cpu = sum(used.ru_utime + used.ru_stime for _, _, used in ends)
    most = max(used.ru_maxrss for _, _, used in ends) / 1e3
    with open_search(space, root / "run", storage) as store:
        records = list(Ledger(store))
        study = store.study(Goals(space.search.objectives), sampler(space))
        outcomes = Counter(
            trial.user_attrs.get("outcome", "open") for trial in study.get_trials(deepcopy=False)
        )
    ended = sum(record.status != "running" for record in records)
    work = Counter((root / "run" / "work.log").read_text().splitlines())
    print(f"{workers} workers: {ended} trials in {took:.0f} s, {ended / took:.1f} a second")
    print(
        f"{1000 * cpu / ended:.0f} ms of CPU for each trial, start-up included; up to {most:.0f} MB a worker"
    )
    print(f"{sum(status != 0 for _, status, _ in ends)} workers failed; proposals: {dict(outcomes)}")
    specs = len({record.identity for record in records})
    again = sum(work.values()) - len(work)
    print(f"{len(records) - specs} specs with two records, {again} pieces of training done twice")


def _forked(work: Callable[[], None]) -> int:
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        work()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _join(space: Space, folder: Path, until: float, storage: str | None) -> None:
    """Search as one worker until a time."""
    training = FakeTraining()

    def train(*asked: Any) -> Trained:
        time.sleep(0.1)
        return training(*asked)

    def watch(event: Event, state: State) -> None:
        if event == "proposed" and time.monotonic() > until:
            raise Enough

    with suppress(Enough):
        run_search(space, folder, train, watch, storage)


def memory() -> str:
    """Return the memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return f"{pages * os.sysconf('SC_PAGE_SIZE') / 1e6:.0f} MB"


if __name__ == "__main__":
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    os.fsync = lambda file: None
    what, root, *more = sys.argv[1:]
    if what == "report":
        report(Path(root))
    elif what == "crowd":
        workers, trials, seconds, *url = more
        crowd(Path(root), int(workers), int(trials), float(seconds), url[0] if url else None)
    else:
        number, *url = more
        {"fill": fill, "propose": propose}[what](Path(root), int(number), url[0] if url else None)
