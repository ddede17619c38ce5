"""Residuals of matched specs as Markdown and CSV."""

from __future__ import annotations

from collections.abc import Sequence

from composer.costs.arms import Arm
from composer.costs.units import amount
from composer.spec.models import Spec


def percent(value: float) -> str:
    """Return 1.234 as `+1.23 %`, and what is exact as `0 %`."""
    return "0 %" if value == 0 else f"{value:+.2f} %"


def markdown(spec: Spec, arms: Sequence[Arm], note: str) -> str:
    """Return the table of the arms of a spec, with what was changed in each; `note` says how it was made."""
    measures = [residual.measure for residual in arms[0].match.residuals]
    head = ["arm", *measures, "matched", "what it is"]
    rows = [_row(arm) for arm in arms]
    moves = [f"- `{arm.name}`: {_moves(arm)}" for arm in arms]
    limits = ", ".join(f"{r.measure} {r.tolerance:g} %" for r in arms[0].match.residuals)
    lines = [
        f"# Arms of {spec.name}",
        "",
        f"Each arm against {spec.name}. Within {limits} an arm counts as matched. {note}",
        "",
        *(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)),
        "",
        "What the matching changed, from each arm as it was derived:",
        "",
        *moves,
    ]
    return "\n".join(lines) + "\n"


def _row(arm: Arm) -> list[str]:
    cells = [f"{amount(r.measure, r.value)} ({percent(r.percent)})" for r in arm.match.residuals]
    return [f"`{arm.name}`", *cells, verdict(arm), arm.about]


def verdict(arm: Arm) -> str:
    """Return `yes`, or which measures are off."""
    off = [residual.measure for residual in arm.match.residuals if not residual.holds]
    return f"no: {', '.join(off)}" if off else "yes"


def _moves(arm: Arm) -> str:
    return ", ".join(map(str, arm.match.moves)) or "nothing"


def csv(arms: Sequence[Arm]) -> str:
    """Return one row for each arm and measure, in whole numbers and percent."""
    lines = ["arm,measure,value,target,residual_percent,tolerance_percent,matched"]
    for arm in arms:
        for r in arm.match.residuals:
            numbers = f"{r.value:.0f},{r.target:.0f},{r.percent:.4f},{r.tolerance:g}"
            lines.append(f"{arm.name},{r.measure},{numbers},{'yes' if r.holds else 'no'}")
    return "\n".join(lines) + "\n"
