"""`composer fit`: the nearest spec that fits its caps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from composer.cli.terminal.options import Set, SpecFile
from composer.cli.terminal.result import Out

if TYPE_CHECKING:
    from composer.costs.counting.count import Costs
    from composer.costs.fitting.fit import Fitted
    from composer.language.schema.spec import Spec

PANEL = "Costs"
EXAMPLE = "composer fit specs/dreamer-small.yaml --set caps.params=100M"


def fit(file: SpecFile, settings: Set = None, out: Out = None) -> None:
    """Change a spec as little as possible until it fits its caps, and say what was changed.

    The fewest numbers change, and those by the smallest ratios: widths, heads, experts, steps, the batch.
    Accumulating over more micro-batches counts as hardly a change, since it alters nothing that is learned.
    Hard caps count, soft ones do not. The spec is written out in full, `let` and `extends` worked out;
    without `--out` it is printed below the report.
    """
    from composer.cli.terminal.result import hand_over
    from composer.costs.counting.plan import count
    from composer.costs.fitting.fit import fit as nearest
    from composer.language.load import load

    spec = load(file, settings or ())
    fitted = nearest(spec)
    hand_over(fitted.spec, _report(spec, fitted, count(spec), count(fitted.spec)), out)


def _report(spec: Spec, fitted: Fitted, before: Costs, after: Costs) -> list[str]:
    from composer.cli.terminal.result import columns
    from composer.costs.base.units import amount

    if not fitted.moves:
        return [f"{spec.name} is within its caps; nothing changed"]
    limits = spec.caps.limits().items()
    rows = [
        (cap, *(amount(cap, value or 0) for value in (before.measure(cap), after.measure(cap), limit)))
        for cap, limit in limits
    ]
    return [
        f"{spec.name} fits with {', '.join(map(str, fitted.moves))}",
        *columns([("cap", "before", "after", "at most"), *rows]),
    ]
