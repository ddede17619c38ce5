"""The shipped space searched by composer and by Optuna's samplers alone, at equal training tokens.

    PYTHONPATH=. OMP_NUM_THREADS=1 python docs/demo.py [SEEDS]    # the table in docs/experiments.md, 5 seeds

Each search may train for as many tokens as FULL points trained in full. "Unaided" is a sampler of Optuna in
the loop that a user would write: every point is a trial, one over a cap is told as infeasible, one that was
trained before is told its result again at no cost, and nothing stops early. Results stand in
docs/replay/demo.csv by the hash of the run; points that are not in it yet are trained and added.
"""

from __future__ import annotations

import csv
import io
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product
from pathlib import Path
from statistics import fmean, stdev
from tempfile import TemporaryDirectory

import optuna
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler

from composer.language.schema.identity import run_hash
from composer.language.schema.spec import Spec
from composer.language.space import Space, load_space
from composer.training.folder.files import write_text
from search.objectives import Goals
from search.propose.candidates import candidate
from search.propose.optuna_adapter import suggest
from search.run.study import run_search
from search.store.locks import exclusive
from search.trainer import Step, Trained, train

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "replay" / "demo.csv"
FULL = 16
NEAR = 0.998
"""The accuracy that counts as having learned the task; the baseline comes to 0.9996."""
LEAST = 0.9
"""The accuracy at which the hypervolume begins."""
UNAIDED: dict[str, Callable[[int], BaseSampler]] = {
    "random": lambda seed: RandomSampler(seed=seed),
    "tpe": lambda seed: TPESampler(seed=seed),
    "nsga2": lambda seed: NSGAIISampler(seed=seed, population_size=16),
}
RUNGS = {"": "[512Ki]", " without rungs": "[]"}
ARMS = (
    *(f"composer{rungs}: {name}" for rungs in RUNGS for name in ("tpe", "random")),
    *(f"Optuna alone: {name}" for name in UNAIDED),
)

Points = list[tuple[float, float]]
"""Accuracy and FLOPs per token of each point trained in full."""


def space(seed: int, sampler: str = "tpe", rungs: str = "[]") -> Space:
    """Return the shipped space with a budget in tokens and nothing trained again."""
    shipped = load_space(ROOT / "specs" / "space.yaml")
    train = shipped.example().spec.train
    assert train is not None
    given = {
        "trials": "null",
        "tokens": str(FULL * train.tokens),
        "baselines": "[]",
        "seeds": "0",
        "seed": str(seed),
        "sampler": sampler,
        "rungs": rungs,
    }
    return load_space(
        ROOT / "specs" / "space.yaml", [f"search.{name}={value}" for name, value in given.items()]
    )


def trained(spec: Spec, folder: Path, until: int | None, report: Callable[[Step], None]) -> Trained:
    """Look up what a point came to, or train it and write that down."""
    key = run_hash(spec)
    for each in _read().get(key, ()):
        if (each.tokens >= until) if until else spec.train and each.tokens >= spec.train.tokens:
            folder.mkdir(parents=True, exist_ok=True)
            return each
    ended = train(spec, folder, until, report)
    with exclusive(RESULTS.with_suffix(".lock")):
        known = _read()
        known.setdefault(key, []).append(ended)
        _write(known)
    return ended


def _read() -> dict[str, list[Trained]]:
    runs_of: dict[str, list[Trained]] = {}
    if RESULTS.exists():
        with RESULTS.open(newline="") as file:
            for row in csv.DictReader(file):
                metrics = {"accuracy": float(row["accuracy"]), "loss": float(row["loss"])}
                runs_of.setdefault(row["run"], []).append(Trained(int(row["tokens"]), metrics))
    return {key: sorted(seen, key=lambda each: each.tokens) for key, seen in runs_of.items()}


def _write(results: dict[str, list[Trained]]) -> None:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("run", "tokens", "accuracy", "loss"))
    for key in sorted(results):
        for each in {each.tokens: each for each in results[key]}.values():
            numbers = (f"{each.metrics[name]:.6g}" for name in ("accuracy", "loss"))
            writer.writerow((key, each.tokens, *numbers))
    write_text(RESULTS, out.getvalue())


def searched(seed: int, sampler: str, rungs: str) -> Points:
    """Search as users do."""
    with TemporaryDirectory() as folder:
        ledger = run_search(space(seed, sampler, rungs), Path(folder) / "search", trained).state.ledger
    ended = [trial for trial in ledger.trials() if trial.status == "finished"]
    return [(trial.seen[-1].metrics["accuracy"], trial.costs["flops_per_token"]) for trial in ended]


def unaided(seed: int, name: str) -> Points:
    """Search by a plain loop around a sampler of Optuna."""
    whole = space(seed)
    assert whole.search is not None
    goals = Goals(whole.search.objectives)
    study = optuna.create_study(directions=list(goals.directions), sampler=UNAIDED[name](seed))
    known: dict[str, tuple[float, float]] = {}
    while len(known) < FULL:
        trial = study.ask()
        point = candidate(whole, partial(suggest, trial))
        for cap, excess in point.constraints.items():
            trial.set_constraint(cap, excess)
        values: Sequence[float] = goals.worst(known.values(), point.costs)
        if point.spec is not None and point.verdict == "feasible":
            if point.identity not in known:
                with TemporaryDirectory() as folder:
                    ended = trained(point.spec, Path(folder) / "run", None, lambda step: None)
                known[point.identity] = (ended.metrics["accuracy"], point.costs["flops_per_token"])
            values = known[point.identity]
        study.tell(trial, values)
    return list(known.values())


def search(arm: str, seed: int) -> Points:
    """Run one arm with one seed."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    tool, name = arm.split(": ")
    kind = tool.removeprefix("composer")
    return searched(seed, name, RUNGS[kind]) if kind in RUNGS else unaided(seed, name)


def hypervolume(points: Points) -> float:
    """Return which share of the area between LEAST and 1 and between the cap and no FLOPs points dominate."""
    reached, area, most = LEAST, 0.0, space(0).example().spec.caps.limits()["flops_per_token"]
    for accuracy, flops in sorted(points, key=lambda point: (point[1], -point[0])):
        area += max(0.0, accuracy - reached) * (1 - flops / most)
        reached = max(reached, accuracy)
    return area / (1 - LEAST)


def table(seeds: int) -> Iterator[str]:
    """Yield the table as Markdown."""
    tasks = [*product(ARMS, range(seeds))]
    with ProcessPoolExecutor(int(os.environ.get("WORKERS", len(os.sched_getaffinity(0))))) as pool:
        results = dict(zip(tasks, pool.map(search, *zip(*tasks, strict=True)), strict=True))
    yield f"| search | best accuracy | reached {NEAR} | FLOPs of the cheapest that did | hypervolume |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    for arm in ARMS:
        runs = [results[arm, seed] for seed in range(seeds)]
        near = [[flops for accuracy, flops in run if accuracy >= NEAR] for run in runs]
        cheapest = [min(flops) for flops in near if flops]
        cells = [
            _spread([max(run)[0] for run in runs], 4),
            f"{len(cheapest)} of {seeds}",
            f"{fmean(cheapest) / 1000:.1f}k" if cheapest else "",
            _spread([hypervolume(run) for run in runs], 3),
        ]
        yield f"| {arm} | {' | '.join(cells)} |"


def _spread(values: Sequence[float], digits: int) -> str:
    return f"{fmean(values):.{digits}f} ± {stdev(values):.{digits}f}"


if __name__ == "__main__":
    print("\n".join(table(int((sys.argv[1:] or ["5"])[0]))))
