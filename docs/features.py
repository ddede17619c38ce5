"""Costs as features of a surrogate: searches replayed on recorded points, with and without them.

    export PYTHONPATH=. OMP_NUM_THREADS=1
    python docs/features.py replay   # docs/replay/features.csv: about 20 minutes on two free cores
    python docs/features.py table    # the tables in docs/experiments.md

The surrogate is a Bayesian linear regression. A search proposes the best of a pool of feasible points, half
of them random and half children of good ones: with one objective that of the largest mean plus standard
deviation, with two the one that adds the largest hypervolume at that accuracy and its known FLOPs. The search
is `run_search` as users run it; nothing stops at rungs.
"""

from __future__ import annotations

import csv
import io
import math
import os
import random
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from itertools import product
from pathlib import Path
from statistics import fmean, stdev
from tempfile import TemporaryDirectory
from typing import TypeAlias
from unittest.mock import patch

import numpy as np
import optuna
from curves import read_curves
from fronts import hypervolume, read_searched
from numpy.typing import NDArray
from optuna import Study
from optuna.trial import FrozenTrial
from recorded import POINTS, Recorded, full, space
from recorded import feasible as feasible_points

from composer.costs.tracing.traced_cost import Coster
from composer.language.parsing.choice import SearchParameter, Value
from composer.language.space import Ask, InvalidPoint, Space, draw
from composer.settings.errors import SpecError
from composer.training.folder.files import write_text
from search.compare.permutation_test import permutation_test
from search.propose import feasible
from search.propose.candidates import Judged
from search.propose.evolution import Population
from search.propose.moves import inherit, mutated
from search.propose.proposals import PLAN, Draft, Source
from search.propose.sampler import Sampler
from search.run.study import run_search

Numbers: TypeAlias = NDArray[np.float64]
Params: TypeAlias = Mapping[str, Value]
Costs: TypeAlias = Mapping[str, float]
Points: TypeAlias = Sequence[tuple[Params, Costs]]

RESULTS, CURVES = POINTS.with_name("features.csv"), POINTS.with_name("curves.csv")
FEATURES = ("choices", "choices and costs")
"""What the surrogate sees; of both it takes the mean of the predictions from each."""
ONE = "[{maximize: accuracy}]"
TWO = "[{maximize: accuracy}, {minimize: flops_per_token}]"
BUDGETS = {"accuracy": (10, 20, 40), "hypervolume": (10, 20)}
"""Training tokens, in points trained in full, by what is compared."""
SEEDS = {"accuracy": 20, "hypervolume": 50}
WARMUP, POOL, DRAWN, ROUNDS = 6, 64, 400, 2000
PENALTIES = np.logspace(-1, 3, 13)


class Surrogate(Source):
    """Drafts from a pool, best first by the regression."""

    def __init__(self, space: Space, seen: str) -> None:
        self._space, self._seen, self._coster = space, seen, Coster()
        self._parameters = {parameter.name: parameter for parameter in space.parameters}
        self._limits = space.example().spec.caps.limits()

    def drafts(
        self, study: Study, trial: FrozenTrial, seeds: Iterable[int], refused: Sequence[Judged]
    ) -> Iterator[Draft]:
        """Rank a pool that is drawn with the first seed; the first points are random."""
        trials = {_key(each.params): each for each in study.get_trials(deepcopy=False)}
        best = [parent.params for _, parent in Population().ranked(study)]
        known = [(params, self._costs(_ask(params))[1]) for params in best]
        values = np.array([trials[_key(params)].values for params in best])
        ranking: Iterator[Params] | None = None
        for seed in seeds:
            rng = random.Random(seed)
            if len(best) < WARMUP:
                yield Draft(partial(draw, rng=rng))
                continue
            if ranking is None:
                told = [each.system_attrs.get(PLAN, each.params) for each in study.get_trials(deepcopy=False)]
                pool = self._pool(best, {_key(params) for params in told}, rng)
                ranking = iter(self._ranked(known, values, pool, rng) if pool else ())
            params = next(ranking, None)
            if params is None:
                return
            yield Draft(inherit(rng, params))

    def _pool(self, best: Sequence[Params], seen: set[object], rng: random.Random) -> Points:
        parents = best[: max(4, len(best) // 4)]
        pool: list[tuple[Params, Costs]] = []
        for number in range(DRAWN):
            ask: Ask = partial(draw, rng=rng)
            if number % 2:
                ask = inherit(rng, mutated(rng.choice(parents), self._parameters, rng, 1 + number % 3))
            try:
                params, costs = self._costs(ask)
            except (InvalidPoint, SpecError):
                continue
            over = any(costs.get(cap, 0) > limit for cap, limit in self._limits.items())
            if _key(params) not in seen and not over:
                seen.add(_key(params))
                pool.append((params, costs))
            if len(pool) == POOL:
                break
        return pool

    def _ranked(self, known: Points, values: Numbers, pool: Points, rng: random.Random) -> list[Params]:
        mean, spread = self._predicted(known, values[:, 0], pool)
        if values.shape[1] == 1:
            score = mean + spread
        else:
            flops = np.array([-costs["flops_per_token"] for _, costs in pool])
            told = np.stack([values[:, 0], -values[:, 1]], 1)
            score = gained(told, np.stack([mean + spread, flops], 1), rng.randrange(2**32))
        return [pool[i][0] for i in np.argsort(-score, kind="stable")]

    def _predicted(self, known: Points, values: Numbers, pool: Points) -> tuple[Numbers, Numbers]:
        by_features = []
        points = [*known, *pool]
        for rows in (_choices(self._parameters.values(), points), _logs(points))[
            : 1 + ("costs" in self._seen)
        ]:
            by_features.append(predicted(rows[: len(known)], values, rows[len(known) :]))
        means, spreads = zip(*by_features, strict=True)
        return sum(means) / len(means), sum(spreads) / len(spreads)

    def _costs(self, ask: Ask) -> tuple[Params, Costs]:
        params, tree = self._space.tree(ask)
        return params, self._coster(tree)


def predicted(points: Numbers, values: Numbers, others: Numbers) -> tuple[Numbers, Numbers]:
    """Return mean and standard deviation of the values at other points.

    The penalty of the regression has the least error in leaving one point out, which is also the noise.

    Args:
        points: (n, d), and `values` (n,).
        others: (m, d).
    """
    varied = points.std(0) > 1e-9
    centre, scale = points[:, varied].mean(0), points[:, varied].std(0)
    x, z = ((each[:, varied] - centre) / scale for each in (points, others))
    mean, unit = values.mean(), values.std() + 1e-12
    y = (values - mean) / unit
    left, sizes, right = np.linalg.svd(x, full_matrices=False)
    best, weights, covariance = math.inf, np.zeros(x.shape[1]), np.eye(x.shape[1])
    for penalty in PENALTIES:
        shrunk = sizes**2 / (sizes**2 + penalty)
        leverage = np.clip((left**2 * shrunk).sum(1), 0, 0.999)
        error = float((((y - left @ (shrunk * (left.T @ y))) / (1 - leverage)) ** 2).mean())
        if error < best:
            best, weights = error, right.T @ (sizes / (sizes**2 + penalty) * (left.T @ y))
            covariance = (np.eye(x.shape[1]) - (right.T * shrunk) @ right) / penalty
    spread = np.sqrt(np.maximum(best * ((z @ covariance) * z).sum(1), 0))
    return mean + unit * (z @ weights), unit * spread


def gained(told: Numbers, hoped: Numbers, seed: int) -> Numbers:
    """Return which share of the hypervolume each row of `hoped` adds to that of `told`; larger is better."""
    low = told.min(0)
    high = np.maximum(np.maximum(told.max(0), hoped.max(0)), low + 1e-12)
    front, aims = ((each - low) / (high - low) for each in (told, hoped))
    where = np.random.default_rng(seed).random((ROUNDS, told.shape[1]))
    free = where[~(front[:, None] >= where).all(2).any(0)]
    # a little of the mean orders those that add nothing
    return np.asarray((aims[:, None] >= free).all(2).sum(1) / ROUNDS + 1e-6 * aims.mean(1))


def _choices(parameters: Iterable[SearchParameter], points: Points) -> Numbers:
    return np.hstack([np.array([_of(parameter, params) for params, _ in points]) for parameter in parameters])


def _of(parameter: SearchParameter, params: Params) -> list[float]:
    """Return one feature for each choice; of a range its place, and whether it is asked."""
    value = params.get(parameter.name)
    if parameter.kind == "categorical":
        return [float(parameter.name in params and value == choice) for choice in parameter.choices]
    if not isinstance(value, int | float):
        return [0.0, 0.0]
    return [1.0, (value - parameter.low) / (parameter.high - parameter.low) - 0.5]


def _logs(points: Points) -> Numbers:
    names = sorted(set.intersection(*(set(costs) for _, costs in points)))
    return np.array([[math.log1p(costs[name]) for name in names] for _, costs in points])


def _ask(params: Params) -> Ask:
    return lambda parameter: params[parameter.name]


def _key(params: Params) -> tuple[tuple[str, Value], ...]:
    return tuple(sorted(params.items()))


@cache
def recorded() -> Recorded:
    """Return the recorded points, read once."""
    return Recorded()


def search(seen: str, measure: str, seed: int) -> list[float]:
    """Search the recorded part of the space; return what was found at each of the budgets."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    budgets = BUDGETS[measure]
    objectives = ONE if measure == "accuracy" else TWO
    given = {"objectives": objectives, "rungs": "[]", "trials": "null", "tokens": str(budgets[-1] * full())}
    surrogate = Sampler("", lambda space: Surrogate(space, seen))
    ours = patch.object(feasible, "find_sampler", lambda name: surrogate)
    with TemporaryDirectory() as folder, warnings.catch_warnings(), ours:
        warnings.simplefilter("ignore")
        part = space(seed=str(seed), **given)
        trials = run_search(part, Path(folder) / "search", recorded()).state.ledger.trials()
    points = [(trial.seen[-1].metrics["accuracy"], trial.costs["flops_per_token"]) for trial in trials]
    if measure == "accuracy":
        return [max(accuracy for accuracy, _ in points[:budget]) for budget in budgets]
    table = recorded()
    every = [
        (seen_at[-1].metrics["accuracy"], table.costs[key]["flops_per_token"])
        for key, seen_at in table.results.items()
    ]
    return [hypervolume(points[:budget]) / hypervolume(every) for budget in budgets]


def replay() -> None:
    """Replay every search, and write what was found."""
    tasks = [
        (seen, measure, seed)
        for seen, measure in product(FEATURES, BUDGETS)
        for seed in range(SEEDS[measure])
    ]
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        results = pool.map(search, *zip(*tasks, strict=True))
        rows = [
            (*task, budget, f"{value:.6g}")
            for task, values in zip(tasks, results, strict=True)
            for budget, value in zip(BUDGETS[task[1]], values, strict=True)
        ]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerows([("features", "measure", "seed", "budget", "value"), *rows])
    write_text(RESULTS, out.getvalue())


def tables() -> Iterator[str]:
    """Yield what was found as Markdown, beside the samplers of earlier replays."""
    values_of: dict[tuple[str, str, int], list[float]] = {}
    with RESULTS.open(newline="") as file:
        for row in csv.DictReader(file):
            key = row["features"], row["measure"], int(row["budget"])
            values_of.setdefault(key, []).append(float(row["value"]))
    for name in ("tpe", "random"):
        for curve in read_curves(CURVES):
            if curve.arm == f"{name}, no rungs":
                for budget in BUDGETS["accuracy"]:
                    values_of.setdefault((name, "accuracy", budget), []).append(curve.at(budget))
    for each in read_searched():
        if each.rule == "no rung":
            values = {10: each.hypervolume_10, 20: each.hypervolume_20}
            for budget in BUDGETS["hypervolume"]:
                values_of.setdefault((each.sampler, "hypervolume", budget), []).append(values[budget])
    columns = [(measure, budget) for measure in BUDGETS for budget in BUDGETS[measure]]
    yield f"| |{''.join(f' {measure}, {budget} |' for measure, budget in columns)}"
    yield f"| --- |{' ---: |' * len(columns)}"
    for name in (*FEATURES, "tpe", "random"):
        lists = [values_of[name, *column] for column in columns]
        cells = (f"{fmean(values):.3f} ± {stdev(values):.3f}" for values in lists)
        yield f"| {name} | {' | '.join(cells)} |"
    without, with_costs = ([values_of[name, *column] for column in columns] for name in FEATURES)
    cells = (
        f"{fmean(two) - fmean(one):+.3f}, p {permutation_test(two, one):.2g}"
        for one, two in zip(without, with_costs, strict=True)
    )
    yield f"| what costs add | {' | '.join(cells)} |"


def predictions(splits: int = 60) -> Iterator[str]:
    """Yield how well accuracies of the other points are ranked from a few random ones, as Markdown."""
    whole, table = space(), recorded()
    points = [(feasible_points()[key], costs) for key, costs in table.costs.items()]
    values = np.array(table.column(-1))
    rows = {"choices": _choices(whole.parameters, points), "costs": _logs(points)}
    counts = (10, 20, 40, 80)
    correlations: dict[str, list[list[float]]] = {name: [[] for _ in counts] for name in (*rows, "both")}
    for seed in range(splits):
        order = np.random.default_rng(seed).permutation(len(values))
        for at, count in enumerate(counts):
            few, rest = order[:count], order[count:]
            told = {name: predicted(x[few], values[few], x[rest])[0] for name, x in rows.items()}
            told["both"] = (told["choices"] + told["costs"]) / 2
            for name, mean in told.items():
                correlations[name][at].append(float(np.corrcoef(_ranks(mean), _ranks(values[rest]))[0, 1]))
    yield f"| features |{''.join(f' {count} points |' for count in counts)}"
    yield f"| --- |{' ---: |' * len(counts)}"
    for name, lists in correlations.items():
        yield f"| {name} | {' | '.join(f'{fmean(each):.2f}' for each in lists)} |"


def _ranks(values: Numbers) -> Numbers:
    return np.argsort(np.argsort(values)).astype(float)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["replay"]:
            replay()
        case ["table"]:
            print("\n".join([*predictions(), "", *tables()]))
        case _:
            sys.exit(__doc__)
