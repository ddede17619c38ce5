"""The `search:` section of a space."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from blocks.base.config import Config
from blocks.base.fields import Count, Natural, Positive
from composer.costs.measures.registry import MATCHABLE, MEASURES
from composer.language.schema.shape_bounds import ShapeBounds
from composer.settings.types import Description, Duration, Many

if TYPE_CHECKING:
    Matchable: TypeAlias = str
else:
    Matchable = Literal[tuple(MATCHABLE)]
"""A cost that sizes can be solved for."""

Metric: TypeAlias = Annotated[
    str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_./-]*$"), Description("the name of a metric or cost")
]
"""A cost, such as params or flops_per_token, or a metric that training logs, such as accuracy."""


class Objective(Config):
    """What a search wants: one metric, as large or as small as possible."""

    maximize: Metric | None = None
    """The metric that should be large."""
    minimize: Metric | None = None
    """The metric that should be small."""

    @model_validator(mode="after")
    def _sound(self) -> Objective:
        if (self.maximize is None) == (self.minimize is None):
            raise _unlike("either maximize or minimize", "neither" if self.maximize is None else "both")
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
        return self.metric in MEASURES


class FlopRungs(Config):
    """Rungs by compute: every candidate is looked at when its training has cost so many FLOPs."""

    flops: Annotated[Many[Count], Field(min_length=1)]
    """Training FLOPs, forward and backward, ascending."""


class MatchedBaseline(Config):
    """A baseline whose sizes are solved so that it costs what the caps allow."""

    spec: Annotated[str, Field(min_length=1)]
    """The spec to begin with, by a path relative to this file; trained as the space says."""
    match: Annotated[
        Many[Matchable],
        Field(min_length=1),
    ]
    """The caps that it comes up to."""
    bounds: ShapeBounds = ShapeBounds()
    """Bounds of shape that the sizes keep, each a default where not given; see docs/costs.md."""


def _form(value: Any) -> str:
    return "mapping" if isinstance(value, dict | Config) else "plain"


Rungs: TypeAlias = Annotated[
    Annotated[Many[Count], Tag("plain")] | Annotated[FlopRungs, Tag("mapping")], Discriminator(_form)
]
"""Training tokens, or {flops: [..]}."""

NamedBaseline: TypeAlias = Annotated[
    Annotated[str, Field(min_length=1), Tag("plain")] | Annotated[MatchedBaseline, Tag("mapping")],
    Discriminator(_form),
]
"""A path, or {spec: path, match: [caps]}."""


class SearchConfig(Config):
    """How a space is searched: what for, within which budget, where weak candidates stop."""

    objectives: Annotated[
        Many[Objective], Field(min_length=1, max_length=4), Description("a list of 1 to 4 objectives")
    ]
    """One to four of {maximize: metric} or {minimize: metric}."""
    trials: Count | None = None
    """Candidates to train; invalid ones, ones above a cap and repeated ones do not count."""
    tokens: Count | None = None
    """Training tokens of all runs together."""
    flops: Count | None = None
    """Training FLOPs of all runs together."""
    time_limit: Duration | None = None
    """Time by the clock during which anyone trains, such as 2h. The first budget used up ends the search."""
    rungs: Rungs = ()
    """Training tokens at which weak candidates stop, or {flops: [..]}; survivors go on to `train.tokens`."""
    keep: Annotated[float, Field(gt=0, le=1)] = 0.5
    """The share of candidates that go on at a rung."""
    sampler: Literal["tpe", "nsga2", "gp", "evolution", "random"] = "tpe"
    """How points are proposed: all but random learn from earlier trials; gp needs the extra `gp`."""
    baselines: Many[NamedBaseline] = ()
    """Specs that are trained first: paths relative to this file, or {spec: path, match: [caps]}."""
    finalists: Count = 3
    """How many of the best candidates are trained again, where `seeds` or `lr_sweep` say so."""
    seeds: Natural = 0
    """Fresh seeds that each finalist and each baseline is trained again with; 0 for none."""
    lr_sweep: Many[Positive] = ()
    """Multiples of its own train.lr that each finalist and each baseline is tried with, beside 1."""
    seed: Natural = 0
    """The seed of the sampler."""

    @model_validator(mode="after")
    def _limited(self) -> SearchConfig:
        if self.trials is self.tokens is self.flops is self.time_limit is None:
            raise _unlike("a budget: trials, tokens, flops or time_limit", "none")
        return self

    @model_validator(mode="after")
    def _ascending(self) -> SearchConfig:
        marks = self.marks
        if any(low >= high for low, high in pairwise(marks)):
            raise _unlike("rungs that ascend", ", ".join(map(str, marks)))
        return self

    @model_validator(mode="after")
    def _different(self) -> SearchConfig:
        metrics = [objective.metric for objective in self.objectives]
        twice = next((metric for metric in metrics if metrics.count(metric) > 1), None)
        if twice is not None:
            raise _unlike("different metrics", f"{twice} twice")
        return self

    @model_validator(mode="after")
    def _swept(self) -> SearchConfig:
        # as run folders are named by them
        rates = [f"{each:g}" for each in self.lr_sweep]
        if len({"1", *rates}) <= len(rates):
            raise _unlike("different multiples beside 1, in six digits", ", ".join(rates))
        return self

    @model_validator(mode="after")
    def _measured(self) -> SearchConfig:
        metrics = [objective.metric for objective in self.objectives]
        if self.retrains and all(objective.is_cost for objective in self.objectives):
            raise _unlike("an objective that training measures, for seeds and lr_sweep", ", ".join(metrics))
        return self

    @property
    def marks(self) -> tuple[int, ...]:
        """The rungs as numbers: training tokens, or FLOPs."""
        return self.rungs.flops if isinstance(self.rungs, FlopRungs) else self.rungs

    @property
    def retrains(self) -> int:
        """How many times each finalist and each baseline is trained again."""
        return self.seeds + len(self.lr_sweep)


def _unlike(expected: str, got: str) -> PydanticCustomError:
    return PydanticCustomError("expected", "{expected}", {"expected": expected, "got": got})
