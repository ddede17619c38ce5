"""Rungs under two objectives: rules that rank candidates, replayed at equal training tokens.

    export PYTHONPATH=. OMP_NUM_THREADS=1
    python docs/fronts.py replay [SEEDS]   # docs/replay/fronts.csv: every rule and sampler, 20 seeds each
    python docs/fronts.py table            # the table of it in docs/experiments.md
    python docs/fronts.py orders           # the next table: 400 random orders of the points, no sampler
    python docs/fronts.py moved            # the same for rungs that are moved where they rank badly

A search is `search.run.study.run_search` as users run it, with accuracy to be maximized and FLOPs per token
to be minimized; only the training is looked up, and the rule at the rung replaced.
"""

from __future__ import annotations

import csv
import io
import math
import os
import random
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import astuple, dataclass, fields
from functools import cache
from itertools import product
from pathlib import Path
from statistics import fmean, stdev
from tempfile import TemporaryDirectory
from unittest.mock import patch

import optuna
from recorded import POINTS, Recorded, full, space

from composer.language.schema.search import Objective
from composer.training.folder.files import write_text
from search.compare import rung_check, rungs
from search.compare.choosing import rescaled
from search.compare.fronts import Fronts, fronts
from search.compare.permutation_test import permutation_test
from search.objectives import Goals, Values
from search.run.study import run_search
from search.store.digest import Digest
from search.store.ledger import Record, Seen

FOUND = POINTS.with_name("fronts.csv")
SAMPLERS = ("tpe", "random")
BUDGETS = (10, 20)
"""Training tokens that a search may spend, in points trained in full."""
MOST_FLOPS = 100_000.0
"""FLOPs per token at which the hypervolume begins: the cap of the space."""

Rule = Callable[[Values, Fronts, float, int], bool]
Inside = Callable[[Sequence[Values]], Sequence[float]]
"""Scores of the points of one front, larger is better; objectives ascend, each from 0 to 1."""


def ranked(inside: Inside) -> Rule:
    """Return the rule that ranks by front, and within a front by a score."""

    def goes_on(own: Values, others: Fronts, keep: float, measured: int = 0) -> bool:
        everyone = rescaled([own, *others])
        ranks = fronts(everyone)
        front = sorted({point for point, rank in zip(everyone, ranks, strict=True) if rank == ranks[0]})
        scores = dict(zip(front, inside(front), strict=True))
        ahead = sum(rank < ranks[0] for rank in ranks)
        ahead += sum(scores.get(point, -math.inf) > scores[everyone[0]] for point in everyone)
        return ahead < math.ceil(keep * len(everyone))

    return goes_on


def crowding(front: Sequence[Values]) -> list[float]:
    """Score points by how far apart their neighbours are, the ends first (NSGA-II)."""
    inner = range(1, len(front) - 1)
    return [math.dist(front[i - 1], front[i + 1]) if i in inner else math.inf for i in range(len(front))]


def epsilon_net(front: Sequence[Values]) -> list[float]:
    """Score points by when they are taken, each time the one farthest from all taken (arXiv 2106.12639)."""
    taken, rest = [front[-1]], [*front[:-1]]
    while rest:
        taken.append(max(rest, key=lambda point: min(math.dist(point, other) for other in taken)))
        rest.remove(taken[-1])
    return [-taken.index(point) for point in front]


def contribution(front: Sequence[Values]) -> list[float]:
    """Score points by the hypervolume that only they dominate; two objectives, from the worst of each."""
    left = [0.0, *(point[0] for point in front[:-1])]
    above = [*(point[1] for point in front[1:]), 0.0]
    return [(point[0] - low) * (point[1] - high) for point, low, high in zip(front, left, above, strict=True)]


WAYS: dict[str, tuple[Rule, dict[str, str]]] = {
    "no rung": (rungs.goes_on, {"rungs": "[]"}),
    "front only": (ranked(lambda front: [0.0] * len(front)), {}),
    "crowding distance": (ranked(crowding), {}),
    "epsilon-net": (ranked(epsilon_net), {}),
    "hypervolume contribution": (ranked(contribution), {}),
    "measured objective": (rungs.goes_on, {}),
}
"""The rules, and how a search with each is set up; the last is the one that composer has."""
BEFORE = "front only"
"""What composer had before."""


@dataclass(frozen=True)
class Searched:
    """The results of one search.

    Attributes:
        trials: how many points were begun, `full` how many of these were trained in full.
        looked: how many reached the rung, and `went_on` how many of these went on.
        hypervolume: of what the search trained in full, as a share of that of all recorded points, for each
            of BUDGETS; and `accuracy` the best accuracy.
    """

    sampler: str
    rule: str
    seed: int
    trials: int
    full: int
    looked: int
    went_on: int
    hypervolume_10: float
    hypervolume_20: float
    accuracy_10: float
    accuracy_20: float


@cache
def recorded() -> Recorded:
    """Return the recorded points, read once."""
    return Recorded()


def search(sampler: str, rule: str, seed: int) -> Searched:
    """Search the recorded part of the space with two objectives."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    goes_on, more = WAYS[rule]
    given = {"objectives": "[{maximize: accuracy}, {minimize: flops_per_token}]", "rungs": "[320k]", **more}
    budget = str(BUDGETS[-1] * full())
    part = space(trials="null", tokens=budget, seed=str(seed), sampler=sampler, **given)
    fixed = patch.object(rung_check, "LEAST", -1.0)
    ruled = patch.object(rungs, "goes_on", goes_on)
    with TemporaryDirectory() as folder, warnings.catch_warnings(), ruled, fixed:
        warnings.simplefilter("ignore")
        trials = run_search(part, Path(folder) / "search", recorded()).state.ledger.trials()
    ended = [record for record in trials if record.status == "finished"]
    stopped = [record for record in trials if record.status == "stopped"]
    by_budget = [_in_full(trials, budget) for budget in BUDGETS]
    volumes = [hypervolume(points) / hypervolume(_everything()) for points in by_budget]
    best = [max((accuracy for accuracy, _ in points), default=math.nan) for points in by_budget]
    counts = (len(trials), len(ended), len(ended) + len(stopped), len(ended))
    return Searched(sampler, rule, seed, *counts, *volumes, *best)


def _in_full(trials: Iterable[Record], budget: int) -> list[tuple[float, float]]:
    """Return accuracy and FLOPs of what was trained in full within a budget."""
    spent, points = 0, []
    for trial in trials:
        spent += trial.tokens
        if trial.status == "finished" and spent <= budget * full():
            points.append((trial.seen[-1].metrics["accuracy"], trial.costs["flops_per_token"]))
    return points


@cache
def _everything() -> tuple[tuple[float, float], ...]:
    table = recorded()
    return tuple(
        (seen[-1].metrics["accuracy"], table.costs[identity]["flops_per_token"])
        for identity, seen in table.results.items()
    )


def hypervolume(points: Iterable[tuple[float, float]]) -> float:
    """Return the area that points dominate, from the least accuracy recorded and the most FLOPs allowed."""
    reached, area = min(accuracy for accuracy, _ in _everything()), 0.0
    for accuracy, flops in sorted(points, key=lambda point: (point[1], -point[0])):
        area += max(0.0, accuracy - reached) * (MOST_FLOPS - flops)
        reached = max(reached, accuracy)
    return area


def replay(seeds: int) -> None:
    """Replay every rule with every sampler and seed, and write what was found."""
    tasks = [*product(SAMPLERS, WAYS, range(seeds))]
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        results = list(pool.map(search, *zip(*tasks, strict=True)))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(field.name for field in fields(Searched))
    for each in results:
        writer.writerow(f"{cell:.6g}" if isinstance(cell, float) else cell for cell in astuple(each))
    write_text(FOUND, out.getvalue())


SHARES = (0.5, 0.4, 0.25)
"""Values of `keep`."""


def in_order(rule: str, seed: int, keep: float) -> tuple[float, float]:
    """Train the recorded points in a random order, within the larger budget, with one rung at 320k tokens.

    Returns:
        The hypervolume of what was trained in full, as a share of that of all points; the share that went on.
    """
    table, goes_on = recorded(), WAYS[rule][0]
    order = [*zip(table.results.values(), _everything(), strict=True)]
    random.Random(seed).shuffle(order)
    seen = Fronts()
    in_full: list[tuple[float, float]] = []
    spent = 0
    for results, (accuracy, flops) in order:
        if spent >= BUDGETS[-1] * full():
            break
        own = (results[1].metrics["accuracy"], -flops)
        goes = rule == "no rung" or goes_on(own, seen, keep, 0)
        seen.add(own)
        spent += results[-1 if goes else 1].tokens
        in_full += [(accuracy, flops)] * goes
    return hypervolume(in_full) / hypervolume(_everything()), len(in_full) / len(seen)


def orders(count: int = 400) -> Iterator[str]:
    """Yield how rules differ from the one before over many random orders, as Markdown."""
    yield f"| ranked by |{''.join(f' keep {keep:g} | went on |' for keep in SHARES)}"
    yield f"| --- |{' ---: |' * (2 * len(SHARES))}"
    shares = {
        (rule, keep): [in_order(rule, seed, keep) for seed in range(count)]
        for rule, keep in product(WAYS, SHARES)
    }
    for rule in WAYS:
        cells = []
        for keep in SHARES:
            pairs = zip(shares[rule, keep], shares[BEFORE, keep], strict=True)
            beyond = [own - other for (own, _), (other, _) in pairs]
            cells.append(f"{fmean(beyond):+.4f} ± {stdev(beyond) / math.sqrt(count):.4f}")
            cells.append(f"{fmean(share for _, share in shares[rule, keep]):.2f}")
        yield f"| {rule} | {' | '.join(cells)} |"


STOPS = {"160k and 320k": (0, 1), "320k": (1,)}


def moving(seed: int, budget: int, stops: Sequence[int], least: float, both: bool) -> tuple[float, int, int]:
    """Train the recorded points in a random order, with rungs that may be moved.

    Args:
        budget: training tokens, in points trained in full.
        stops: the rungs, as milestones of the recorded points.
        least: `rung_check.LEAST`; -1 leaves every rung where it is.
        both: whether FLOPs are an objective, too.

    Returns:
        The hypervolume of what was trained in full, and the points at which the first and the last rung
        were moved, 0 where they were not.
    """
    table = recorded()
    objectives = [Objective(maximize="accuracy"), Objective(minimize="flops_per_token")]
    goals = Goals(objectives if both else objectives[:1])
    order = [*zip(table.results.values(), _everything(), strict=True)]
    random.Random(seed).shuffle(order)
    digest = Digest()
    arrivals = rungs.Arrivals(digest, goals)
    records: list[Record] = []
    spent = 0
    for number, (results, (_, flops)) in enumerate(order):
        if spent >= budget * full():
            break
        record = Record(str(number), "trial", str(number), number, {}, {"flops_per_token": flops}, "")
        records.append(record)
        for milestone in (*stops, len(results) - 1):
            measured = results[milestone]
            values = goals.measured(measured.metrics, record.costs)
            record.seen.append(Seen(measured.tokens, values, measured.metrics))
            if milestone == len(results) - 1:
                record.status = "finished"
                continue
            with patch.object(rung_check, "LEAST", least):
                if not arrivals.holds(record, 0.4):
                    record.status = "stopped"
                    break
            digest.update(record)
        digest.update(record)
        spent += record.tokens
    spared = digest.spared
    first, last = (int(spared[rung].name) if rung in spared else 0 for rung in (0, len(stops) - 1))
    points = [
        (r.seen[-1].metrics["accuracy"], r.costs["flops_per_token"])
        for r in records
        if r.status == "finished"
    ]
    return hypervolume(points) / hypervolume(_everything()), first, last


def moved(count: int = 60) -> Iterator[str]:
    """Yield what moving rungs changes over many random orders, as Markdown."""
    yield "| objectives | rungs | budget | fixed | moved | difference | first moved | last moved |"
    yield f"| --- | --- |{' ---: |' * 6}"
    for both, (name, stops), budget in product((False, True), STOPS.items(), (20, 40)):
        fixed, moved_runs = (
            [moving(seed, budget, stops, least, both) for seed in range(count)]
            for least in (-1.0, rung_check.LEAST)
        )
        beyond = [own - other for (own, *_), (other, *_) in zip(moved_runs, fixed, strict=True)]
        means = [f"{fmean(volume for volume, *_ in group):.3f}" for group in (fixed, moved_runs)]
        difference = f"{fmean(beyond):+.4f} ± {stdev(beyond) / math.sqrt(count):.4f}"
        often = [f"{fmean(each[i] > 0 for each in moved_runs):.2f}" for i in (1, 2)]
        cells = ["accuracy, FLOPs" if both else "accuracy", name, str(budget), *means, difference, *often]
        yield f"| {' | '.join(cells)} |"


def read_searched() -> list[Searched]:
    """Read what was found."""
    kinds = {"str": str, "int": int, "float": float}
    with FOUND.open(newline="") as file:
        return [
            Searched(*(kinds[str(field.type)](row[field.name]) for field in fields(Searched)))
            for row in csv.DictReader(file)
        ]


def table(results: Sequence[Searched]) -> Iterator[str]:
    """Yield what the rules found, mean and standard deviation over seeds, as Markdown."""
    head = ["sampler", "ranked by", *(f"hypervolume, {budget}" for budget in BUDGETS)]
    head += [f"p, {BUDGETS[-1]}", f"accuracy, {BUDGETS[-1]}", "went on", "begun", "in full"]
    yield f"| {' | '.join(head)} |"
    yield f"| --- | --- |{' ---: |' * (len(head) - 2)}"
    for sampler, rule in product(SAMPLERS, WAYS):
        group = _group(results, sampler, rule)
        before = [each.hypervolume_20 for each in _group(results, sampler, BEFORE)]
        own = [each.hypervolume_20 for each in group]
        cells = [sampler, rule, _spread([each.hypervolume_10 for each in group]), _spread(own)]
        cells.append("" if rule == BEFORE else f"{permutation_test(own, before):.2g}")
        cells.append(_spread([each.accuracy_20 for each in group]))
        share = fmean(each.went_on / each.looked for each in group)
        cells.append("" if rule == "no rung" else f"{share:.2f}")
        cells += [f"{fmean(counts):.0f}" for counts in ([e.trials for e in group], [e.full for e in group])]
        yield f"| {' | '.join(cells)} |"


def _group(results: Sequence[Searched], sampler: str, rule: str) -> list[Searched]:
    return [each for each in results if (each.sampler, each.rule) == (sampler, rule)]


def _spread(values: Sequence[float]) -> str:
    return f"{fmean(values):.3f} ± {stdev(values):.3f}"


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["replay", *rest]:
            replay(int((rest or ["20"])[0]))
        case ["table"]:
            print("\n".join(table(read_searched())))
        case ["moved"]:
            for line in moved():
                print(line, flush=True)
        case ["orders"]:
            print("\n".join(orders()))
        case _:
            sys.exit(__doc__)
