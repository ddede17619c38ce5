"""The `search:` section of a space."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from blocks.base.config import Config
from blocks.base.fields import Count, Natural, Positive
from composer.language.schema.samplers import samplers
from composer.language.schema.shape_bounds import ShapeBounds
from composer.measures.registry import MATCHABLE, MEASURES
from composer.settings.types import Description, Duration, Many

if TYPE_CHECKING:
    Matchable: TypeAlias = str
    SamplerName: TypeAlias = str
else:
    # a cost that sizes can be solved for
    Matchable = Literal[tuple(MATCHABLE)]
    SamplerName = Literal[tuple(samplers())]

Metric: TypeAlias = Annotated[
    str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_./-]*$"), Description("the name of a metric or cost")
]
"""A cost, such as params or flops_per_token, or a metric that training logs, such as accuracy."""


class Objective(Config):
    """One objective of a search: a metric to maximize or minimize."""

    maximize: Metric | None = None
    """The metric to maximize."""
    minimize: Metric | None = None
    """The metric to minimize."""

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
    """Rungs by compute: every candidate is measured when its training has used this many FLOPs."""

    flops: Annotated[Many[Count], Field(min_length=1)]
    """Training FLOPs, forward and backward, ascending."""


class MatchedBaseline(Config):
    """A baseline whose sizes are solved so that its costs come close to the caps."""

    spec: Annotated[str, Field(min_length=1)]
    """The spec to start from, by a path relative to this file; trained as the space says."""
    match: Annotated[
        Many[Matchable],
        Field(min_length=1),
    ]
    """The caps that it should reach."""
    bounds: ShapeBounds = ShapeBounds()
    """Bounds on its shape, with defaults; see docs/costs.md."""


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
    """How a space is searched: objectives, budgets, rungs, sampler, finals."""

    unhashed: ClassVar[frozenset[str]] = frozenset(
        {
            *("trials", "tokens", "flops", "time_limit", "baselines", "start"),
            *("finalists", "seeds", "lr_sweep", "seed"),
        }
    )

    objectives: Annotated[
        Many[Objective], Field(min_length=1, max_length=4), Description("a list of 1 to 4 objectives")
    ]
    """One to four of {maximize: metric} or {minimize: metric}."""
    trials: Count | None = None
    """Number of candidates to train; invalid, repeated and over-cap points do not count."""
    tokens: Count | None = None
    """Training tokens of all runs together."""
    flops: Count | None = None
    """Training FLOPs of all runs together."""
    time_limit: Duration | None = None
    """Wall-clock time while any worker trains, such as 2h; the first exhausted budget ends a search."""
    rungs: Rungs = ()
    """Training tokens at which weak candidates stop, or {flops: [..]}; others continue to `train.tokens`."""
    keep: Annotated[float, Field(gt=0, le=1)] = 0.5
    """The share of candidates that continue at a rung."""
    sampler: SamplerName = "tpe"
    """The sampler that proposes points; docs/search.md lists the samplers, and packages add others."""
    edits: Annotated[int, Field(ge=0, le=8)] = 0
    """How many edits of structure a candidate may have beside the space's choices; see docs/search.md."""
    baselines: Many[NamedBaseline] = ()
    """Specs to train first: paths relative to this file, or {spec: path, match: [caps]}."""
    start: Many[Annotated[str, Field(min_length=1)]] = ()
    """Points to try first: paths, relative to this file, of specs, run folders or searches."""
    finalists: Count = 3
    """Number of the best candidates that are retrained if `seeds` or `lr_sweep` is set."""
    seeds: Natural = 0
    """Number of fresh seeds with which each finalist and baseline is retrained."""
    lr_sweep: Many[Positive] = ()
    """Multiples of its own train.lr, besides 1, with which each finalist and baseline is tried."""
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
            raise _unlike("distinct multiples other than 1 (compared to six digits)", ", ".join(rates))
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
