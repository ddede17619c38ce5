"""A cost measure: one entry from which caps, objectives, matching, units, tables and docs are derived."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, TypeAlias

from composer.measures.limits import Number, Size, TimeLimits

Unit: TypeAlias = Literal["count", "bytes", "seconds"]

Costs: TypeAlias = Any
"""A `composer.costs.counting.count.Costs`, which lies above; it holds the spec and the graph, too."""

At: TypeAlias = Literal["", "evaluation", "mean", "most"]
_AT: Mapping[At, str] = {
    "": "",
    "evaluation": "at the steps of evaluation",
    "mean": "in the mean over the steps of training",
    "most": "at the most steps of training",
}

_CAPS: Mapping[Unit, Any] = {"count": Number, "bytes": Size, "seconds": TimeLimits}


class Measure(NamedTuple):
    """A number that is known of a spec before it is trained; it can be capped and be an objective.

    Attributes:
        name: what caps, objectives, JSON and tables call it.
        unit: how it is written: 1.2M, 1.5 MiB or 3.1 ms.
        meaning: one sentence for the docs and the schema.
        value: reads or computes it from the costs of a spec; None where it does not apply. Traced numbers
            pass through it where it is plain arithmetic.
        label: what pictures and tables of the docs call it.
        short: a short name, which `composer match --on` takes, too.
        aliases: what other frameworks call it, separated by spaces.
        tolerance: percent within which a matched spec counts as equal; None where it cannot be matched.
        main: whether specs are matched and compared by it unless other measures are named.
        training: whether it depends on the `train` section of a spec, or cannot do without.
        on_device: whether it is estimated for the device that its cap names.
        cap: the type of its field in `caps:`; by default that of the unit.
        parts: what it is made of, by name; the heaviest part is named where a cap is exceeded.
        details: numbers shown below it where two specs are compared.
        mitigation: what is done by itself to keep to its cap.
        at: for which number of steps it is stated where training runs others than evaluation.
    """

    name: str
    unit: Unit
    meaning: str
    value: Callable[[Costs], float | None]
    label: str = ""
    short: str = ""
    aliases: str = ""
    tolerance: float | None = None
    main: bool = False
    training: Literal["unused", "used", "needed"] = "unused"
    on_device: bool = False
    cap: Any = None
    parts: Callable[[Costs], Mapping[str, float]] | None = None
    details: Callable[[Costs], Mapping[str, float]] | None = None
    mitigation: str = ""
    at: At = ""

    @property
    def cap_type(self) -> Any:
        """The type of its field in `caps:`."""
        return self.cap or _CAPS[self.unit]

    @property
    def at_words(self) -> str:
        """For which number of steps it is stated, in words."""
        return _AT[self.at]

    def heaviest(self, costs: Costs) -> tuple[str, float]:
        """Return the part that weighs most, and its size."""
        parts = self.parts(costs) if self.parts else {self.name: self.value(costs) or 0}
        name, size = max(parts.items(), key=lambda part: part[1])
        return name, size if self.unit == "seconds" else round(size)
