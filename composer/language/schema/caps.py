"""The `caps:` section: what a model may cost at most, with one field for each cost measure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from pydantic import Field, create_model

from blocks.base.config import Config
from composer.costs.measures.limits import Limits
from composer.costs.measures.registry import MEASURES

Kind: TypeAlias = Literal["hard", "soft"]

if TYPE_CHECKING:

    class _Fields(Config):
        def __getattr__(self, name: str) -> Any: ...

else:
    _Fields = create_model(
        "_Fields",
        __base__=Config,
        **{
            name: (measure.cap_type | None, Field(None, description=measure.meaning))
            for name, measure in MEASURES.items()
        },
    )


class Caps(_Fields):
    """What the model may cost at most: a number is a hard limit, above which a spec is refused untrained.

    `{soft: .., hard: ..}` states two: above the soft one a spec is warned about.
    """

    def limit(self, name: str, kind: Kind = "hard") -> float | None:
        """Return the limit of a cap, None where there is none of that kind."""
        cap = getattr(self, name)
        if isinstance(cap, Limits):
            found: float | None = getattr(cap, kind)
            return found
        return cap if kind == "hard" else None

    def limits(self, kind: Kind = "hard") -> dict[str, float]:
        """Return the limits of a kind by cap, in the order of the measures."""
        found = {name: self.limit(name, kind) for name in MEASURES}
        return {name: limit for name, limit in found.items() if limit is not None}
