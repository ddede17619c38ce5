"""Samplers of somebody else's package: one that is as it should be, one that ignores its seeds."""

from __future__ import annotations

import random

from composer.language.space import draw
from search.propose.proposals import Draft, Source
from search.propose.sampler import Sampler


class Low(Source):
    """Prefers the first of two random answers in order."""

    tries = 40

    def drafts(self, study, trial, seeds, refused):
        """Make one draft for each seed."""
        for seed in seeds:
            rng = random.Random(seed)
            yield Draft(lambda parameter, rng=rng: min(draw(parameter, rng), draw(parameter, rng), key=str))


class Seedless(Source):
    """Draws as it likes."""

    def drafts(self, study, trial, seeds, refused):
        """Make drafts that nobody can make again."""
        for _ in seeds:
            rng = random.Random()
            yield Draft(lambda parameter, rng=rng: draw(parameter, rng))


LOW = Sampler("prefers what comes first", lambda space: Low())
SEEDLESS = Sampler("random, differently each time", lambda space: Seedless())
