"""The tree-structured Parzen estimator (arXiv 2304.11127)."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from math import ceil
from typing import TYPE_CHECKING

from search.propose.sampler import Sampler

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

    from composer.language.space import Space
    from search.propose.proposals import Source


def _source(space: Space) -> Source:
    from search.propose.proposals import SurrogateSource

    return SurrogateSource(space, _tpe if len(space.search.objectives) > 1 else _tpe_of_one, 24)


def _tpe(seed: int, gamma: Callable[[int], int] | None = None) -> BaseSampler:
    from optuna.exceptions import ExperimentalWarning
    from optuna.samplers import TPESampler

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        warnings.simplefilter("ignore", FutureWarning)  # gamma is to go in Optuna 6
        return TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True, gamma=gamma)


def _tpe_of_one(seed: int) -> BaseSampler:
    # refused drafts count as trials for it, so a tenth of all has few feasible ones; a larger share helps
    return _tpe(seed, lambda trials: min(ceil(0.15 * trials), 25))


SAMPLER = Sampler("multivariate, grouped TPE (arXiv 2304.11127) with constant liar; the default", _source)
