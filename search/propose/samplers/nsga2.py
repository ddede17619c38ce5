"""NSGA-II."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search.propose.sampler import Sampler

if TYPE_CHECKING:
    from composer.language.space import Space
    from search.propose.proposals import Source

_POPULATION = 16


def _source(space: Space) -> Source:
    from optuna.samplers import NSGAIISampler

    from search.propose.proposals import DirectSource

    return DirectSource(lambda seed: NSGAIISampler(seed=seed, population_size=_POPULATION), 24)


SAMPLER = Sampler(f"NSGA-II with a population of {_POPULATION}", _source)
