"""How proposals were found: the drafts of a sampler and their outcomes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

DRAWN = "drawn"
"""The user attribute of an Optuna trial that holds these counts, as a mapping."""


@dataclass
class Drawn:
    """Counts of the drafts of one proposal, or of many.

    Attributes:
        costed: drafts in all.
        own: drafts by the sampler; the others were drawn at random after it found none.
        infeasible: how many of its own were over a cap or no valid spec.
        known: how many of its own were proposed before.
        found: proposals that were feasible and new in the end.
    """

    costed: int = 0
    own: int = 0
    infeasible: int = 0
    known: int = 0
    found: int = 0

    @property
    def share(self) -> float:
        """The sampler's own share of infeasible drafts."""
        return self.infeasible / self.own if self.own else 0.0


def total(attributes: Iterable[Mapping[str, Any]]) -> Drawn:
    """Sum the counts in the user attributes of trials; trials without them count as 0."""
    counts = [each[DRAWN] for each in attributes if DRAWN in each]
    return Drawn(**{name: sum(each[name] for each in counts) for name in vars(Drawn())})
