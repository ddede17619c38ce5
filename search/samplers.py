"""Samplers whose proposals are a function of the seed, the trial's number and the study so far.

A sampler of Optuna's draws from a stream that dies with its process. Here each question to it gets a fresh
stream, so a search that was killed goes on with the proposals it would have made.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial


class Repeatable(BaseSampler):
    """Asks `make(seed)` anew at each question, with a seed of its own."""

    def __init__(self, make: Callable[[int], BaseSampler], seed: int, lost: Callable[[], bool]) -> None:
        """`lost()` tells when proposals lead nowhere; until it no longer does, they are drawn at random."""
        self._make, self._seed, self._lost = make, seed, lost

    def _fresh(self, trial: FrozenTrial, name: str = "") -> BaseSampler:
        text = f"{self._seed}/{trial.number}/{name}"
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
        return RandomSampler(seed) if self._lost() else self._make(seed)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the knobs that are drawn together."""
        return self._fresh(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Draw those."""
        return self._fresh(trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Draw one knob."""
        return self._fresh(trial, param_name).sample_independent(study, trial, param_name, param_distribution)


def sampler(name: str, seed: int, lost: Callable[[], bool] = lambda: False) -> BaseSampler:
    """Make the sampler that a space names: tpe (arXiv 2304.11127) or random."""
    makers: dict[str, Callable[[int], BaseSampler]] = {
        "tpe": lambda seed: TPESampler(seed=seed),
        "random": lambda seed: RandomSampler(seed=seed),
    }
    return Repeatable(makers[name], seed, lost)
