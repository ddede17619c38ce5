"""Samplers compared: searches are replayed on points that were trained once, at equal training tokens.

    export PYTHONPATH=. OMP_NUM_THREADS=1
    python docs/replay.py record [PART/PARTS]      # train every point of a part of the shipped space
    python docs/replay.py replay [SEEDS] [ARM ..]  # search it with all arms, or with some, 20 seeds each
    python docs/replay.py live [ARM ..]            # search it with each arm once, and train
    python docs/replay.py outside                  # how rungs agree on 30 points that were not recorded
    python docs/replay.py table                    # print what came out as Markdown, and draw it

A search is `search.run.study.run_search` as users run it, but for what trains. Without scipy there is no gp.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from importlib.util import find_spec
from itertools import combinations, product
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import optuna
from curves import BUDGETS, Curve, best_table, curves_text, figure, live_table, read_curves, rival_table
from recorded import POINTS, ROOT, Recorded, full, outside, record, space

from composer.training.folder.files import write_text
from search.compare import rung_check
from search.report.stats import agreement
from search.run.study import run_search
from search.trainer import Train, train

RIVAL = "random"
"""The sampler that the others are held against."""
SAMPLERS = ("tpe", "nsga2", "gp", "evolution", RIVAL)
WAYS = {
    "": {},
    ", one rung": {"rungs": "[320k]"},
    ", no rungs": {"rungs": "[]"},
}
"""With both rungs that were recorded, with the second alone, with none."""
ARMS = {sampler + way: {"sampler": sampler, **given} for way, given in WAYS.items() for sampler in SAMPLERS}
PLAIN = f"{RIVAL}, no rungs"
DRAWN = ("tpe", "nsga2", "gp", "evolution", "tpe, one rung", "tpe, no rungs")
LARGEST = {"gp": 20}
"""The largest budget of samplers that take seconds for each proposal."""
LIVE, LIVE_SEED = 5, 1
"""Budget and seed of a live search."""
CURVES, LIVES = POINTS.with_name("curves.csv"), POINTS.with_name("live.csv")
FIGURE = ROOT / "docs" / "images" / "samplers.svg"


def search(arm: str, seed: int, budget: int, trainer: Train | None = None) -> Curve:
    """Search the recorded part of the space for the tokens of `budget` points trained in full."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    tokens = full()
    part = space(trials="null", tokens=str(budget * tokens), seed=str(seed), **ARMS[arm])
    # the rungs stay where they are: moving them is measured in docs/fronts.py
    fixed = patch.object(rung_check, "LEAST", -1.0)
    with TemporaryDirectory() as folder, warnings.catch_warnings(), fixed:
        warnings.simplefilter("ignore")
        ledger = run_search(part, Path(folder) / "search", trainer or recorded()).state.ledger
    spent, best, ended = 0, -1.0, 0
    steps: list[tuple[float, float]] = []
    for trial in ledger.trials():
        spent += trial.tokens
        if trial.status == "finished":
            ended += 1
            if trial.seen[-1].metrics["accuracy"] > best:
                best = trial.seen[-1].metrics["accuracy"]
                steps.append((spent / tokens, best))
    return Curve(arm, seed, budget, len(ledger.trials()), ended, tuple(steps))


@cache
def recorded() -> Recorded:
    """Return the recorded points, read once."""
    return Recorded()


def replay(seeds: int, arms: Sequence[str]) -> None:
    """Replay arms with every seed, and write the curves; those of other arms stay."""
    chosen = _chosen(arms or [*ARMS])
    curves = [curve for curve in read_curves(CURVES) if curve.arm not in chosen]
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        tasks = [pool.submit(search, arm, seed, _largest(arm)) for arm, seed in product(chosen, range(seeds))]
        curves += [task.result() for task in tasks]
    curves.sort(key=lambda curve: ([*ARMS].index(curve.arm), curve.seed))
    write_text(CURVES, curves_text(curves))


def live(arms: Sequence[str]) -> None:
    """Search with arms once, trained for real, and write the curves; one that was searched with stays."""
    done = read_curves(LIVES)
    for arm in _chosen(arms or (*SAMPLERS, PLAIN)):
        if arm not in {curve.arm for curve in done}:
            done.append(search(arm, LIVE_SEED, LIVE, train))
            write_text(LIVES, curves_text(done))


def tables() -> Iterator[str]:
    """Yield what came out, as Markdown."""
    curves = read_curves(CURVES)
    yield from best_table(curves, [*ARMS])
    yield ""
    pairs = [(sampler + way, RIVAL + way) for way in WAYS for sampler in SAMPLERS if sampler != RIVAL]
    yield from rival_table(curves, [*pairs, (PLAIN, RIVAL)])
    yield ""
    yield from live_table(read_curves(LIVES), curves)
    yield ""
    table = recorded()
    yield from agreements([table.column(pause) for pause in range(len(table.pauses))])
    yield f"best of all {len(table.results)} points: {table.best():.4f}"


def agreements(columns: Sequence[Sequence[float]]) -> Iterator[str]:
    """Yield Kendall's tau between the accuracies of the same points at every two milestones."""
    for (i, one), (j, other) in combinations(enumerate(columns, 1), 2):
        tau = agreement(one, other)
        if tau is not None:
            yield f"tau, milestones {i} and {j}: {tau.tau:.2f} ({tau.low:.2f} to {tau.high:.2f})"


def _chosen(arms: Sequence[str]) -> list[str]:
    return [arm for arm in arms if not arm.startswith("gp") or find_spec("scipy")]


def _largest(arm: str) -> int:
    return LARGEST.get(arm.split(",")[0], BUDGETS[-1])


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["record", *rest]:
            record(*map(int, (rest or ["0/1"])[0].split("/")))
        case ["replay", *rest]:
            replay(int((rest or ["20"])[0]), rest[1:])
        case ["live", *rest]:
            live(rest)
        case ["outside"]:
            print("\n".join(agreements(outside(30))))
        case ["table"]:
            print("\n".join(tables()))
            drawn = figure(read_curves(CURVES), DRAWN, RIVAL, PLAIN, full())
            write_text(FIGURE, drawn.svg(alone=True))
        case _:
            sys.exit(__doc__)
