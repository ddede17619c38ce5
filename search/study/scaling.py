"""How the loss falls with parameters, recurrence and tokens: the fit of iso-depth scaling laws.

    L = E + A (N_once + r^phi N_rec)^-alpha + B D^-beta        (arXiv 2604.21106)

N_once are the active parameters that run once, N_rec those of recurrent stages, r their steps, D the training
tokens. phi says what a recurrent step is worth: 1 as much as a layer with weights of its own, 0 nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from composer import cost
from composer.language.schema.spec import Spec
from composer.language.schema.steps import all_stages
from search.study.intervals import Estimate, bootstrap
from search.study.plan import Results

SIZES = 3
"""The fewest sizes with which a fit says something."""
_GRIDS = {
    "alpha": (0.1, 0.2, 0.35, 0.5, 0.8, 1.2),
    "beta": (0.1, 0.2, 0.35, 0.5, 0.8, 1.2),
    "phi": (-0.5, 0.0, 0.5, 1.0, 1.5),
}
_ROUNDS = 7
"""Times that the grid is halved around the best point."""


@dataclass(frozen=True)
class Point:
    """One mean loss: active parameters by how often they run, tokens."""

    params: Mapping[int, int]
    tokens: float
    loss: float


@dataclass(frozen=True)
class Fit:
    """The constants of the law; `error` is the root mean square of what it leaves of the loss."""

    floor: float
    a: float
    b: float
    alpha: float
    beta: float
    phi: float
    error: float


def recurrence(spec: Spec) -> dict[int, int]:
    """Return the active parameters of a spec by the number of times that recurrence runs them."""
    steps = {path: stage.trips for path, stage in all_stages(spec.stages).items() if stage.recurs}
    params_of: dict[int, int] = {}
    for row in cost(spec).by_operation:
        times = 1
        for place, trips in steps.items():
            times *= trips if f"{row.place}.".startswith(f"{place}.") else 1
        params_of[times] = params_of.get(times, 0) + row.share.active_params
    return {times: params for times, params in params_of.items() if params}


def fit(points: Sequence[Point], near: Fit | None = None) -> Fit:
    """Fit the law by least squares of the residuals relative to the loss.

    E, A and B are not negative. The exponents are searched on a grid that is halved around the best point;
    with `near` only around that fit.
    """
    loss = np.array([point.loss for point in points])
    tokens = np.array([point.tokens for point in points])
    times = sorted({times for point in points for times in point.params})
    params = np.array([[point.params.get(each, 0) for each in times] for point in points], dtype=float)
    repeats = np.array(times, dtype=float)

    def solved(alpha: float, beta: float, phi: float) -> Fit:
        sizes = params @ repeats**phi
        columns = np.stack(
            [np.ones_like(loss), (sizes / sizes.mean()) ** -alpha, (tokens / tokens.mean()) ** -beta], 1
        )
        floor, a, b, error = _not_negative(columns / loss[:, None], np.ones_like(loss))
        scale_a, scale_b = a * sizes.mean() ** alpha, b * tokens.mean() ** beta
        return Fit(floor, float(scale_a), float(scale_b), alpha, beta, phi, error)

    if near is None:
        best = min(
            (solved(*values) for values in product(*_GRIDS.values())), key=lambda estimate: estimate.error
        )
        widths = (0.5, 0.5, 0.25)
    else:
        best, widths = solved(near.alpha, near.beta, near.phi), (0.25, 0.25, 0.25)
    for number in range(_ROUNDS):
        share = 0.5**number
        around = [
            solved(
                max(0.02, best.alpha * (1 + i * widths[0] * share)),
                max(0.02, best.beta * (1 + j * widths[1] * share)),
                best.phi + k * widths[2] * share,
            )
            for i, j, k in product((-1, 0, 1), repeat=3)
        ]
        best = min([best, *around], key=lambda estimate: estimate.error)
    return best


def fitted(results: Results) -> tuple[Fit, Estimate] | None:
    """Fit the law to all arms at all sizes and budgets; return it, and phi with its error over seeds.

    None with fewer than three sizes, without recurrent and other arms, or without a seed that all arms have.
    """
    study, config = results.plan.study, results.plan.config
    if len(study.sizes) < SIZES:
        return None
    shapes = [recurrence(arm.spec) for arm in study.arms]
    if not any(set(shape) != {1} for shape in shapes) or all(set(shape) != {1} for shape in shapes):
        return None
    cells = [
        (arm, shape, budget)
        for arm, shape in zip(study.arms, shapes, strict=True)
        for budget in config.budgets
    ]
    losses = [results.fresh(arm, budget) for arm, _, budget in cells]
    seeds = set.intersection(*(set(by_seed) for by_seed in losses))
    if not seeds:
        return None
    table = {seed: [by_seed[seed].metrics["loss"] for by_seed in losses] for seed in sorted(seeds)}

    def points(rows: Sequence[Sequence[float]]) -> list[Point]:
        return [
            Point(shape, budget, fmean(column))
            for (_, shape, budget), column in zip(cells, zip(*rows, strict=True), strict=True)
        ]

    best = fit(points(list(table.values())))
    estimate = bootstrap(table, table, lambda rows, _: fit(points(rows), best).phi)
    return best, estimate


def law_rows(fit_and_phi: tuple[Fit, Estimate]) -> Iterator[list[str]]:
    """Yield the constants as names and texts."""
    law, phi = fit_and_phi
    low, high = phi.interval()
    yield ["phi, the exponent of recurrence", f"{law.phi:.2f}", f"{low:.2f} to {high:.2f}"]
    named = {"E": law.floor, "A": law.a, "B": law.b, "alpha": law.alpha, "beta": law.beta}
    for name, value in named.items():
        yield [name, f"{value:.4g}", ""]
    yield ["error", f"{100 * law.error:.2g} %", ""]


def _not_negative(
    columns: NDArray[np.float64], target: NDArray[np.float64]
) -> tuple[float, float, float, float]:
    """Return the coefficients, none negative, of least squares over three columns, and the error."""
    best = (0.0, 0.0, 0.0, float("inf"))
    for mask in product((True, False), repeat=3):
        chosen = [i for i in range(3) if mask[i]]
        factors = np.zeros(3)
        if chosen:
            factors[chosen] = np.linalg.lstsq(columns[:, chosen], target, rcond=None)[0]
        if (factors >= 0).all():
            error = float(np.sqrt(np.mean((columns @ factors - target) ** 2)))
            if error < best[3]:
                best = (float(factors[0]), float(factors[1]), float(factors[2]), error)
            if all(mask):
                break
    return best
