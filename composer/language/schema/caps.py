"""The `caps:` section: upper limits on costs, with one field for each measure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from pydantic import Field, create_model

from blocks.base.config import Config
from composer.measures.limits import Limits
from composer.measures.registry import MEASURES

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
    """Upper limits on the model's costs: a number is a hard limit, above which a spec is refused untrained.

    `{soft: .., hard: ..}` sets two: a spec above the soft one gets a warning.
    """

    def limit(self, name: str, kind: Kind = "hard") -> float | None:
        """Return the hard or soft limit of a cap, or None."""
        cap = getattr(self, name)
        if isinstance(cap, Limits):
            limit: float | None = getattr(cap, kind)
            return limit
        return cap if kind == "hard" else None

    def limits(self, kind: Kind = "hard") -> dict[str, float]:
        """Return the limits of a kind by cap, in the order of the measures."""
        limits = {name: self.limit(name, kind) for name in MEASURES}
        return {name: limit for name, limit in limits.items() if limit is not None}
