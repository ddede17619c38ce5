"""`composer match`: a baseline with the costs of another spec."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer

from composer.cli.terminal.options import Bound, Set
from composer.cli.terminal.result import Out
from composer.measures.registry import MAIN, MATCHABLE, MEASURES

if TYPE_CHECKING:
    from composer.costs.matching.match import Match
    from composer.language.schema.spec import Spec

PANEL = "Costs"
EXAMPLE = "composer match specs/recurrent-tiny.yaml --to specs/dreamer-tiny.yaml"


def _named(name: str) -> str:
    short = MEASURES[name].short
    return f"{name} (short: {short})" if short else name


def match(
    base: Annotated[
        str, typer.Argument(metavar="BASE", help="The spec whose sizes are solved.", show_default=False)
    ],
    to: Annotated[
        str,
        typer.Option(
            "--to", metavar="TARGET", help="The spec it has to cost as much as.", show_default=False
        ),
    ],
    on: Annotated[
        str,
        typer.Option(
            "--on",
            metavar="MEASURE,..",
            help=f"What is matched: {', '.join(map(_named, MATCHABLE))}.",
        ),
    ] = ",".join(MAIN),
    free: Annotated[
        str | None,
        typer.Option(
            "--free",
            metavar="SIZE,..",
            help="The numbers that may change, such as width,expert.hidden,steps. "
            "Default: the width, heads, head sizes, experts, active experts and hidden sizes.",
            show_default=False,
        ),
    ] = None,
    tolerance: Annotated[
        str | None,
        typer.Option(
            "--tolerance",
            metavar="MEASURE=PERCENT,..",
            help="How far a measure may be off, such as params=0.5%. Default: "
            f"{', '.join(f'{name} {far:g} %' for name, far in MATCHABLE.items())}.",
            show_default=False,
        ),
    ] = None,
    bound: Bound = None,
    settings: Set = None,
    out: Out = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print plain JSON; the spec is then written with --out only.")
    ] = False,
) -> None:
    """Solve the sizes of BASE so that it costs what TARGET does: a matched baseline.

    BASE keeps its architecture: mixes, steps, layers and windows. Vocabulary, context and training are taken
    from TARGET, so FLOPs are stated at its context and memory at its micro-batch; caps are left out on both
    sides, so nothing is recomputed. The result is the shape nearest to BASE that costs the same and keeps
    the bounds of shape: its width stays near that of BASE, its attention and hidden sizes near the width,
    its experts several times as many as are active. Ends with 1, and writes nothing, where no such shape is
    found. `--set` is laid over BASE.
    """
    from composer.cli.terminal.files import write
    from composer.cli.terminal.options import read_bounds
    from composer.cli.terminal.result import hand_over
    from composer.costs.matching.match import match as matched
    from composer.costs.matching.residuals import plain
    from composer.language.description.show import resolved_yaml
    from composer.language.load import load

    wanted, bounds = _tolerances(tolerance), read_bounds(bound or ())
    target = load(to)
    tunables = measure_names(free) if free else None
    result = matched(load(base, settings or ()), target, measure_names(on), tunables, wanted, bounds=bounds)
    if json:
        from json import dumps

        if result.holds and out is not None:
            write(out, resolved_yaml(result.spec))
        print(dumps({**plain(result), "bounds": bounds.model_dump()}, indent=2))
    elif result.holds:
        hand_over(result.spec, _report(target, result), out)
    else:
        print("\n".join(_report(target, result)))
    if not result.holds:
        raise typer.Exit(1)


def _report(target: Spec, result: Match) -> list[str]:
    from composer.cli.terminal.result import columns
    from composer.costs.base.units import amount
    from composer.costs.matching.residuals import changes, percent
    from composer.graph.lowering.build import micro_batch_tokens

    tokens = micro_batch_tokens(target)
    off = [residual.measure for residual in result.residuals if not residual.holds]
    outcome = "matched"
    if off:
        outcome = f"no shape within the bounds meets all budgets; off: {', '.join(off)}"
    rows = [
        (
            each.measure,
            amount(each.measure, each.value),
            amount(each.measure, each.target),
            percent(each.percent),
            f"{each.tolerance:g} %",
            "ok" if each.holds else "OFF",
        )
        for each in result.residuals
    ]
    return [
        f"{result.spec.name}: {outcome}",
        f"changed: {changes(result)}",
        f"distance: {result.distance:.2f} from the shape of the base",
        f"vocabulary, context and training are those of {target.name}; memory is that of {tokens} tokens",
        *columns([("measure", "value", "target", "residual", "tolerance", ""), *rows]),
        *(
            f"the base is itself outside the bounds: {text}; its own value is the bound"
            for text in result.widened
        ),
        *([f"it is at these bounds of shape: {', '.join(result.reached)}"] if off and result.reached else []),
        *(["try a wider --bound, a base of another size, or --free with more, such as steps"] if off else []),
    ]


def measure_names(text: str) -> list[str]:
    """Read `params,flops_per_token`."""
    return [name.strip() for name in text.split(",") if name.strip()]


def _tolerances(text: str | None) -> dict[str, float]:
    """Read `params=1%,train_memory=3`."""
    from composer.settings.errors import Fault, SpecError

    tolerances = {}
    for item in measure_names(text or ""):
        name, _, value = item.partition("=")
        value = value.strip().removesuffix("%").strip()
        if not re.fullmatch(r"\d+(\.\d+)?", value) or float(value) == 0:
            raise SpecError(
                [Fault("--tolerance", 0, 0, "", "measure=percent, such as params=0.5%", repr(item))]
            )
        tolerances[name.strip()] = float(value)
    return tolerances
