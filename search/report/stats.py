"""Effects of parameters and agreement of rungs, estimated from the trials, with their uncertainty.

Parameters: an additive model (each value of each parameter adds its share) is fitted by ridge regression, its
penalty chosen by the error on held-out trials. Fewer or noisier trials shrink the effects towards zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from search.compare.kendall import kendall

Array: TypeAlias = NDArray[np.float64]

FEWEST = 8
"""Fewest trials from which effects of parameters are estimated."""
_MOST_LEVELS = 6
_DRAWS = 300
_INTERVAL = (5, 95)
_PENALTIES = tuple(float(value) for value in np.geomspace(0.1, 300, 15))


@dataclass(frozen=True)
class Level:
    """The effect of one value of a parameter on the mean of trials with it: estimate and 90 % interval."""

    label: str
    count: int
    effect: float
    low: float
    high: float


@dataclass(frozen=True)
class Effect:
    """One parameter.

    Attributes:
        share: of the variance between trials, by this parameter alone; with its 90 % interval.
        chance: the share that 95 of 100 shuffles of the results stay below.
    """

    parameter: str
    share: float
    low: float
    high: float
    chance: float
    levels: tuple[Level, ...]


@dataclass(frozen=True)
class Effects:
    """All parameters, the most important first.

    Attributes:
        trials: number of trials that the model was fitted to.
        explained: the share of the variance of trials left out that the model predicts; may be negative.
    """

    parameters: tuple[Effect, ...]
    trials: int
    explained: float


@dataclass(frozen=True)
class Agreement:
    """Agreement of two rungs on the trials that reached both: Kendall's tau-b with its 90 % interval."""

    trials: int
    tau: float
    low: float
    high: float


def effects(answers: Sequence[Mapping[str, Any]], values: Sequence[float]) -> Effects | None:
    """Estimate the effect of each parameter on a result; None for too few trials or equal results.

    Args:
        answers: values by parameter, for each trial; parameters in branches not taken are missing.
        values: the result of each trial.
    """
    result = np.asarray(values, dtype=float)
    names = list(dict.fromkeys(name for each in answers for name in each))
    coded = [(name, *code) for name in names if (code := _coded([_given(each, name) for each in answers]))]
    if len(result) < FEWEST or np.ptp(result) == 0 or not coded:
        return None
    columns = np.concatenate([columns for _, _, columns in coded], axis=1)
    penalty, explained = _penalty(columns, result)
    parts = np.split(np.arange(columns.shape[1]), np.cumsum([part.shape[1] for *_, part in coded])[:-1])
    fitted = _fit(columns, result, penalty)
    rng = np.random.default_rng(0)
    draws = [_resampled(columns, result, penalty, parts, rng) for _ in range(_DRAWS)]
    shuffled = [_fit(columns, rng.permutation(result), penalty) for _ in range(_DRAWS)]
    estimated = []
    for i, ((name, labels, own), part) in enumerate(zip(coded, parts, strict=True)):
        share = _share(own, fitted[part], result)
        chance = [_share(own, weights[part], result) for weights in shuffled]
        low, high = np.percentile([shares[i] for _, shares in draws], _INTERVAL)
        levels = _levels(labels, own, fitted[part], [weights[part] for weights, _ in draws])
        estimated.append(
            Effect(name, share, float(low), float(high), float(np.percentile(chance, 95)), tuple(levels))
        )
    return Effects(tuple(sorted(estimated, key=lambda each: -each.share)), len(result), explained)


def agreement(one: Sequence[float], other: Sequence[float]) -> Agreement | None:
    """Compare two rankings of the same trials; None if all values of one are equal."""
    count, whole = len(one), kendall(one, other)
    if np.isnan(whole):
        return None
    rng = np.random.default_rng(0)
    samples = rng.multinomial(count, np.full(count, 1 / count), size=_DRAWS).astype(float)
    draws = [kendall(one, other, weights) for weights in samples]
    low, high = np.nanpercentile(draws, _INTERVAL)
    return Agreement(count, whole, float(low), float(high))


def _given(answers: Mapping[str, Any], name: str) -> Any:
    """Return a value, `null` for the value None, and None for a parameter that the trial does not have."""
    return ("null" if answers[name] is None else answers[name]) if name in answers else None


def _coded(given: Sequence[Any]) -> tuple[list[str], Array] | None:
    """Return a column for each level, centred over the trials with the parameter; None for one level."""
    asked = [value for value in given if value is not None]
    levels = sorted(set(asked), key=lambda value: (isinstance(value, str), value))
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in asked)
    if numeric and len(levels) > _MOST_LEVELS:
        edges = np.unique(np.quantile(np.asarray(asked, float), [0, 0.25, 0.5, 0.75, 1]))
        place = [None if v is None else int(np.searchsorted(edges[1:-1], v, "right")) for v in given]
        labels = [f"{low:.3g} to {high:.3g}" for low, high in pairwise(edges)]
    else:
        place = [None if value is None else levels.index(value) for value in given]
        labels = [str(value) for value in levels]
    if len(set(place) - {None}) < 2:
        return None
    columns = np.array([[float(at == level) for level in range(len(labels))] for at in place])
    mask = np.array([at is not None for at in place])
    columns[mask] -= columns[mask].mean(axis=0)
    return labels, columns


def _fit(columns: Array, result: Array, penalty: float) -> Array:
    centred = columns - columns.mean(axis=0)
    square = centred.T @ centred + penalty * np.eye(columns.shape[1])
    weights: Array = np.linalg.solve(square, centred.T @ (result - result.mean()))
    return weights


def _penalty(columns: Array, result: Array) -> tuple[float, float]:
    """Return the penalty with the least leave-one-out error, and the share of variance it predicts."""
    count = len(result)
    centred = columns - columns.mean(axis=0)
    alone = float(np.sum(((result - result.mean()) * count / (count - 1)) ** 2))
    errors = []
    for penalty in _PENALTIES:
        square = centred.T @ centred + penalty * np.eye(columns.shape[1])
        # the whole matrix that maps results to predictions would be quadratic in the trials
        solved = np.linalg.solve(square, centred.T)
        predicted = centred @ (solved @ result) + result.mean()
        diagonal = np.einsum("ij,ji->i", centred, solved) + 1 / count
        left = (result - predicted) / (1 - diagonal)
        errors.append(float(np.sum(left**2)))
    best = int(np.argmin(errors))
    return _PENALTIES[best], 1 - errors[best] / alone


def _resampled(
    columns: Array,
    result: Array,
    penalty: float,
    parts: Sequence[NDArray[np.int64]],
    rng: np.random.Generator,
) -> tuple[Array, list[float]]:
    """Return the weights and the share of each part of them, on as many trials drawn with replacement."""
    rows = rng.integers(len(result), size=len(result))
    sample, values = columns[rows], result[rows]
    weights = _fit(sample, values, penalty)
    return weights, [_share(sample[:, part], weights[part], values) for part in parts]


def _share(columns: Array, weights: Array, result: Array) -> float:
    whole = float(np.var(result))
    return float(np.var(columns @ weights)) / whole if whole else 0.0


def _levels(labels: list[str], columns: Array, weights: Array, draws: list[Array]) -> list[Level]:
    levels = []
    for number, label in enumerate(labels):
        # centred, so positive only for trials with this value
        rows = columns[columns[:, number] > 0]
        if not len(rows):
            continue
        row = rows[0]
        low, high = np.percentile([row @ drawn for drawn in draws], _INTERVAL)
        levels.append(Level(label, len(rows), float(row @ weights), float(low), float(high)))
    return levels
