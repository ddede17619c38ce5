"""Random search."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search.propose.sampler import Sampler

if TYPE_CHECKING:
    from composer.language.space import Space
    from search.propose.proposals import Source


def _source(space: Space) -> Source:
    from optuna.samplers import RandomSampler

    from search.propose.proposals import DirectSource

    return DirectSource(lambda seed: RandomSampler(seed=seed), 200)


SAMPLER = Sampler("uniform within the caps", _source)
