"""A Gaussian process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search.propose.sampler import Sampler

if TYPE_CHECKING:
    from composer.language.space import Space
    from search.propose.proposals import Source


def _source(space: Space) -> Source:
    from optuna.samplers import GPSampler

    from search.propose.proposals import SurrogateSource

    return SurrogateSource(space, lambda seed: GPSampler(seed=seed, warn_independent_sampling=False), 3)


SAMPLER = Sampler(
    "Gaussian process with constrained expected improvement, of hypervolume for several objectives; "
    "seconds per proposal",
    _source,
    needs="scipy",
    install="attention-composer[gp]",
)
