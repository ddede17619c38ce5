"""The fields of a study file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from blocks.base.config import Config
from blocks.base.fields import Count, Natural, Positive
from composer.language.schema.search import Matchable, Metric
from composer.language.schema.shape_bounds import ShapeBounds
from composer.language.schema.spec import Share
from composer.measures.registry import MAIN
from composer.settings.types import Description, Many

COSTS = ("tokens", "flops", "seconds")
"""The costs charged to a run, named as the measure of a claim and the axis of a figure name them."""
COST_NAMES = {"tokens": "tokens", "flops": "FLOPs", "seconds": "seconds"}
"""The same in text."""

Name = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"),
    Description("a name of letters, digits, -, _, ."),
]
MEASURE = re.compile(rf"(?P<cost>{'|'.join(COSTS)})_to_(?P<metric>.+)")
"""The measure of a claim: a cost, and the held-out score that both arms are to reach."""


class Arm(Config):
    """One arm: derived from the base spec, or a spec of its own."""

    derive: Annotated[str, Field(min_length=1)] | None = None
    """The name of an arm that `composer arms` derives from the base, such as dr or untied-dense."""
    spec: Annotated[str, Field(min_length=1)] | None = None
    """The spec, by a path relative to this file; by default the base."""
    set: Many[str] = ()
    """Overrides of the spec, such as `stages.0.recur=8`."""
    match: Many[Matchable] | None = None
    """The costs of the base that its sizes are solved for, in place of the study's; [] for none: as it is."""

    @model_validator(mode="after")
    def _sound(self) -> Arm:
        if self.derive is not None and (self.spec is not None or self.set or self.match is not None):
            raise fault("derive alone: a derived arm is matched as the study says", "other fields beside it")
        return self


class Claim(Config):
    """The claim that one arm costs at least `factor` times less than another at an equal score."""

    arm: str
    """The arm that is claimed to be better."""
    against: str
    """The arm that it is compared with."""
    measure: (
        Annotated[
            str,
            Field(pattern=rf"^(?:{'|'.join(COSTS)})_to_[A-Za-z_][A-Za-z0-9_./-]*$"),
            Description("tokens_to_, flops_to_ or seconds_to_ with the name of a held-out score"),
        ]
        | None
    ) = None
    """The cost and the held-out score, such as tokens_to_accuracy, flops_to_loss, seconds_to_accuracy_k4; by
    default tokens_to_ the study's own measure."""
    factor: Positive = 1.0
    """How many times less; 1 claims that it is better at all."""

    def __str__(self) -> str:
        better = f"{self.factor:g} times fewer" if self.factor != 1 else "fewer"
        cost = COST_NAMES[self.cost]
        return f"{self.arm} needs {better} {cost} than {self.against} for equal {self.metric}"

    @property
    def cost(self) -> str:
        """The cost: one of `COSTS`."""
        return self._parts["cost"]

    @property
    def metric(self) -> str:
        """The held-out score."""
        return self._parts["metric"]

    @property
    def _parts(self) -> re.Match[str]:
        parts = MEASURE.fullmatch(self.measure or "")
        assert parts is not None, "a claim of `StudyConfig.measured_claims` has a measure"
        return parts


class StudyConfig(Config):
    """A study: which arms are trained, at which learning rates, seeds, sizes and budgets."""

    schema_: Annotated[Literal[1], Field(alias="schema")]
    """The version of the spec language."""
    name: Name
    """Names the default folder, `runs/study-NAME`."""
    base: Annotated[str, Field(min_length=1)]
    """The spec that arms are derived from and matched to, by a path relative to this file. Data and training
    of all arms are its own, except for tokens, learning rate and seed."""
    set: Many[str] = ()
    """Overrides of the base."""
    arms: Annotated[dict[Name, Arm], Field(min_length=1), Description("a mapping from names to arms")]
    """The arms by name."""
    match: Many[Matchable] = MAIN
    """The costs of the base that the sizes of each arm are solved for."""
    bounds: ShapeBounds = ShapeBounds.model_construct()
    """Which shapes a matched arm may have."""
    sizes: dict[Name, Many[str]] = Field(default={})
    """Sizes by name, smallest first: overrides of the base and of the arms' specs, such as
    `small: [model.width=32]`. By default one size, the specs as they are."""
    rates: Annotated[Many[Positive], Field(min_length=1), Description("a list of learning rates")]
    """Learning rates that every arm is tried with, at the base's own seed."""
    seeds: Annotated[int, Field(ge=1, le=1000)] = 5
    """Fresh seeds with which each arm is then trained at its best rate: train.seed + 1, 2, and so on."""
    budgets: Annotated[Many[Count], Field(min_length=1), Description("a list of training tokens, ascending")]
    """Training tokens, ascending. One run serves all: its rate decays from the stable phase to each."""
    warmup: Natural = 0
    """Training tokens in which the rate rises."""
    decay: Annotated[Share, Field(gt=0)] = 0.2
    """Share of a budget in which the rate falls."""
    measure: Metric = "accuracy"
    """The held-out score by which learning rates are chosen, at the largest budget, and arms are ranked."""
    reference: str | None = None
    """The arm that all others are tested against; by default the first."""
    claims: Many[Claim] = ()
    """The claims, which the results decide."""

    @property
    def measured_claims(self) -> list[Claim]:
        """The claims, each with its measure."""
        default = f"tokens_to_{self.measure}"
        return [each.model_copy(update={"measure": each.measure or default}) for each in self.claims]

    @model_validator(mode="after")
    def _sound(self) -> StudyConfig:
        for problem in _problems(self):
            raise problem
        return self


def lower_is_better(metric: str) -> bool:
    """Whether a held-out score is better when it is lower."""
    return metric.startswith(("loss", "bits_per_byte", "perplexity"))


def fault(expected: str, got: str) -> PydanticCustomError:
    """Make the error of a check of the whole section."""
    return PydanticCustomError("expected", "{expected}", {"expected": expected, "got": got})


def _problems(study: StudyConfig) -> Iterator[PydanticCustomError]:
    for name in ("rates", "budgets"):
        values: Sequence[float] = getattr(study, name)
        if any(a >= b for a, b in pairwise(values)):
            yield fault(
                f"{name} in ascending order, each once", "[" + ", ".join(map("{:g}".format, values)) + "]"
            )
    if study.warmup > (1 - study.decay) * study.budgets[0]:
        limit = (1 - study.decay) * study.budgets[0]
        yield fault(
            f"a warmup that ends before the first budget decays, at {limit:.0f} tokens", str(study.warmup)
        )
