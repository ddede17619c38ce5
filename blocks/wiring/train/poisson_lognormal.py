"""Numbers of steps in training from a log-normal Poisson distribution. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import ceil, exp, lgamma, log, sqrt
from typing import Annotated

from pydantic import Field

from blocks.base.config import Config
from blocks.base.fields import Count, Untraced
from blocks.wiring.train import MOST_NUMBERS, Phase, TrainedSteps

_REACH = 9.0
"""The range of the integral over the rate on each side, in standard deviations."""


class PoissonLogNormal(Config):
    """The parameters of a log-normal Poisson distribution."""

    mean: Annotated[float, Field(ge=1, le=1000, allow_inf_nan=False, examples=[2.5]), Untraced()]
    """The mean before `max` is applied; r + 1 in the notation of arXiv 2502.05171."""
    sigma: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False), Untraced()] = 0.5
    """The standard deviation of the logarithm of the rate; 0 gives a Poisson distribution."""
    max: Annotated[Count, Field(le=MOST_NUMBERS, examples=[3]), Untraced()]
    """The largest number of steps; larger draws are replaced by it."""


class PoissonLogNormalSteps(TrainedSteps):
    """min(1 + Poisson(exp(t)), max) with t ~ Normal(log(mean - 1) - sigma^2 / 2, sigma).

    As in Huginn (arXiv 2502.05171), which has no maximum.
    """

    name = "poisson_lognormal"
    aliases = "lognormal_poisson log_normal_poisson poisson lognormal"

    poisson_lognormal: PoissonLogNormal
    """The parameters of the distribution."""

    def phases(self, steps: int, optimizer_steps: int) -> Sequence[Phase]:
        """Return one phase with every number up to the largest."""
        given = self.poisson_lognormal
        return (Phase(0, range(1, given.max + 1), _shares(given.mean, given.sigma, given.max)),)


@lru_cache(maxsize=256)
def _shares(mean: float, sigma: float, most: int) -> tuple[float, ...]:
    """Return the probabilities of 1, 2, ... `most`.

    The trapezoidal rule over t is exact to rounding: a Poisson probability times the density of t is as
    smooth and narrow as a normal density.
    """
    if mean == 1:
        return (1.0, *(0.0,) * (most - 1))
    center = log(mean - 1) - sigma**2 / 2
    # in units of sigma; half of the width of the narrowest integrand
    spacing = 0.5 / sqrt(1 + sigma**2 * most)
    count = ceil(_REACH / spacing) if sigma else 0
    weights = [exp(-((n * spacing) ** 2) / 2) for n in range(-count, count + 1)]
    whole = sum(weights)
    logs = [center + sigma * n * spacing for n in range(-count, count + 1)]
    nodes = [(weight / whole, t, exp(t)) for weight, t in zip(weights, logs, strict=True)]
    shares = [
        sum(weight * exp(k * t - rate - lgamma(k + 1)) for weight, t, rate in nodes) for k in range(most - 1)
    ]
    return (*shares, max(0.0, 1 - sum(shares)))
