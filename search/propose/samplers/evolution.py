"""Evolution on specs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search.propose.sampler import Sampler

if TYPE_CHECKING:
    from composer.language.space import Space
    from search.propose.proposals import Source


def _source(space: Space) -> Source:
    from search.propose.evolution import Evolution

    return Evolution(space, 24)


SAMPLER = Sampler("mutation and crossover of trained specs", _source)
