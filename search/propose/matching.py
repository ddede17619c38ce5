"""Matched baselines: sizes solved so that a spec's costs are just below the caps of the space."""

from __future__ import annotations

from functools import cache
from math import exp
from typing import Any

from composer.costs.base.units import amount
from composer.costs.matching.match import Match, match_to
from composer.language.baselines import Entry
from composer.language.description.show import resolved_yaml
from composer.language.load import loads
from composer.language.schema.shape_bounds import ShapeBounds
from composer.language.schema.spec import Spec
from composer.measures.registry import MATCHABLE
from composer.settings.errors import SpecError, listed


def matched(entry: Entry, like: Spec) -> tuple[Spec, dict[str, Any]]:
    """Return a baseline at sizes that bring each cost it is matched by just below the cap, never above.

    Args:
        entry: the baseline as the space names it.
        like: a point of the space, whose vocabulary, context, training and caps it takes.

    Returns:
        The spec, and as text the changes (`moves`), the resulting costs (`matched`), and
        the distance of its shape from the entry's (`distance`).

    Raises:
        SpecError: there are no such sizes, or it cannot be trained as the space says.
    """
    try:
        solved = _solved(resolved_yaml(entry.spec), resolved_yaml(like), entry.match, entry.bounds)
    except SpecError as error:
        first = error.faults[0]
        got = f"{first.path}: expected {first.expected}, got {first.got}"
        raise SpecError([entry.fault("a spec that can be trained as the space is", got)]) from None
    caps = {each.measure: (like.caps.limit(each.measure) or 0, each.value) for each in solved.residuals}
    came = [f"{name} {amount(name, value)} of {amount(name, cap)}" for name, (cap, value) in caps.items()]
    if not solved.holds:
        near = (f"{name} within {MATCHABLE[name]:g} % below {amount(name, caps[name][0])}" for name in caps)
        at = f" (the best shape is at {listed(solved.reached, 'and')})" if solved.reached else ""
        hint = f"match it to fewer caps, begin with other layers, or give it wider bounds{at}"
        raise SpecError(
            [entry.fault(f"sizes that bring {listed(near, 'and')}", f"at best {', '.join(came)}", hint)]
        )
    spec = solved.spec.model_copy(update={"caps": like.caps})
    return spec, {
        "moves": [str(move) for move in solved.moves],
        "matched": came,
        "distance": round(solved.distance, 2),
    }


@cache
def _solved(base: str, like: str, match: tuple[str, ...], bounds: ShapeBounds) -> Match:
    """Solve once per process, since it takes seconds."""
    target = loads(like)
    aims = {name: _aim(target.caps.limit(name) or 0, MATCHABLE[name]) for name in match}
    return match_to(loads(base), target, aims, bounds=bounds)


def _aim(cap: float, tolerance: float) -> tuple[float, float]:
    """Return the centre of the range that counts as matched, which ends at the cap, and its half-width."""
    return cap * exp(-tolerance / 200), tolerance / 2
