"""The `search:` section of a space."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from blocks.core.config import Config
from blocks.core.fields import Count, Natural
from composer.spec.types import Duration, Many, Said

COSTS = (
    "params",
    "active_params",
    "flops_per_token",
    "train_flops",
    "train_memory",
    "cache_bytes_per_token",
    "depth_cache_bytes",
)
"""Metrics that are known before training; any other name is one that training logs."""

Metric: TypeAlias = Annotated[
    str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_./-]*$"), Said("the name of a metric or cost")
]
"""A cost, such as params or flops_per_token, or a metric that training logs, such as accuracy."""


class Objective(Config):
    """What a search wants: one metric, as large or as small as possible."""

    maximize: Metric | None = None
    """The metric that should be large."""
    minimize: Metric | None = None
    """The metric that should be small."""

    @model_validator(mode="after")
    def _one_way(self) -> Objective:
        if (self.maximize is None) == (self.minimize is None):
            got = "neither" if self.maximize is None else "both"
            raise PydanticCustomError(
                "expected", "{expected}", {"expected": "either maximize or minimize", "got": got}
            )
        return self

    @property
    def metric(self) -> str:
        """The name of the metric."""
        metric = self.minimize if self.maximize is None else self.maximize
        assert metric is not None
        return metric

    @property
    def direction(self) -> Literal["maximize", "minimize"]:
        """Which way is better."""
        return "minimize" if self.maximize is None else "maximize"

    @property
    def is_cost(self) -> bool:
        """Whether the metric is known before training."""
        return self.metric in COSTS


class SearchConfig(Config):
    """How a space is searched: what for, how many trials, where weak candidates stop."""

    objectives: Annotated[
        Many[Objective], Field(min_length=1, max_length=2), Said("a list of 1 or 2 objectives")
    ]
    """One or two of {maximize: metric} or {minimize: metric}."""
    trials: Count
    """Candidates to train; invalid ones, ones above a cap and repeated ones do not count."""
    rungs: Many[Count] = ()
    """Training tokens at which weak candidates stop, ascending; survivors go on to `train.tokens`."""
    keep: Annotated[float, Field(gt=0, le=1)] = 0.5
    """The share of candidates that go on at a rung."""
    sampler: Literal["tpe", "nsga2", "gp", "evolution", "random"] = "tpe"
    """How points are proposed: all but random learn from earlier trials; gp needs the extra `gp`."""
    baselines: Many[Annotated[str, Field(min_length=1)]] = ()
    """Specs that are trained first, by paths relative to this file."""
    seed: Natural = 0
    """The seed of the sampler."""
    time_limit: Duration | None = None
    """When to start no further trial, such as 2h."""

    @model_validator(mode="after")
    def _sound(self) -> SearchConfig:
        if any(low >= high for low, high in pairwise(self.rungs)):
            told = {"expected": "rungs that ascend", "got": ", ".join(map(str, self.rungs))}
            raise PydanticCustomError("expected", "{expected}", told)
        metrics = [objective.metric for objective in self.objectives]
        if len(set(metrics)) < len(metrics):
            told = {"expected": "two different metrics", "got": f"{metrics[0]} twice"}
            raise PydanticCustomError("expected", "{expected}", told)
        return self
