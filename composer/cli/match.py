"""`composer match`: a baseline that costs what another spec does."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer

from composer.cli.options import Set
from composer.cli.result import Out

if TYPE_CHECKING:
    from composer.costs.match import Match
    from composer.spec.models import Spec


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
            help="What is matched: params, active_params, flops_per_token, train_flops, train_memory, "
            "cache_bytes_per_token (short: cache), depth_cache_bytes.",
        ),
    ] = "params,flops_per_token,train_memory",
    free: Annotated[
        str | None,
        typer.Option(
            "--free",
            metavar="KNOB,..",
            help="The numbers that may change, such as width,expert.hidden,steps. "
            "Default: the width and all sizes of blocks but windows.",
            show_default=False,
        ),
    ] = None,
    tolerance: Annotated[
        str | None,
        typer.Option(
            "--tolerance",
            metavar="MEASURE=PERCENT,..",
            help="How far a measure may be off, such as params=0.5%. Default: 2 % for FLOPs, 5 % for memory, "
            "1 % for parameters and caches.",
            show_default=False,
        ),
    ] = None,
    settings: Set = None,
    out: Out = None,
) -> None:
    """Solve the sizes of BASE so that it costs what TARGET does: a matched baseline.

    BASE keeps its architecture: mixes, steps, layers and windows. Vocabulary, context and training are taken
    from TARGET, so FLOPs are stated at its context and memory at its micro-batch; caps are left out on both
    sides, so nothing is recomputed. Sizes are freed little by little, and the first set that suffices is
    kept: hidden sizes and experts, then active experts, then the width, then heads and their sizes. Ends
    with 1, and writes nothing, where a residual is above its tolerance. `--set` is laid over BASE.
    """
    from composer.cli.result import hand_over
    from composer.costs.match import match as matched
    from composer.spec.load import load

    wanted = _tolerances(tolerance)
    target = load(to)
    found = matched(load(base, settings or ()), target, _names(on), _names(free) if free else None, wanted)
    report = _report(target, found)
    if found.holds:
        hand_over(found.spec, report, out)
        return
    print("\n".join(report))
    raise typer.Exit(1)


def _report(target: Spec, found: Match) -> list[str]:
    from composer.cli.result import columns
    from composer.costs.residuals import percent
    from composer.costs.units import amount
    from composer.graph.build import micro_batch_tokens

    tokens = micro_batch_tokens(target)
    off = [residual.measure for residual in found.residuals if not residual.holds]
    told = f"off in {', '.join(off)}; --free more of it, such as steps" if off else "matched"
    rows = [
        (
            each.measure,
            amount(each.measure, each.value),
            amount(each.measure, each.target),
            percent(each.percent),
            f"{each.tolerance:g} %",
            "ok" if each.holds else "OFF",
        )
        for each in found.residuals
    ]
    return [
        f"{found.spec.name}: {told}",
        f"changed: {', '.join(map(str, found.moves)) or 'nothing'}",
        f"vocabulary, context and training are those of {target.name}; memory is that of {tokens} tokens",
        *columns([("measure", "value", "target", "residual", "tolerance", ""), *rows]),
    ]


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _tolerances(text: str | None) -> dict[str, float]:
    """Read `params=1%,train_memory=3`."""
    from composer.spec.errors import Fault, SpecError

    found = {}
    for item in _names(text or ""):
        name, _, value = item.partition("=")
        value = value.strip().removesuffix("%").strip()
        if not re.fullmatch(r"\d+(\.\d+)?", value) or float(value) == 0:
            raise SpecError(
                [Fault("--tolerance", 0, 0, "", "measure=percent, such as params=0.5%", repr(item))]
            )
        found[name.strip()] = float(value)
    return found
