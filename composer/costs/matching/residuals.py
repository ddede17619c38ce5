"""Arms and their residuals as text, Markdown, CSV and JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from textwrap import wrap
from typing import Any

from composer.costs.base.units import amount
from composer.costs.matching.arms import Arm, left_out
from composer.costs.matching.match import Match
from composer.costs.matching.suggest import experts_needed
from composer.language.schema.spec import Spec
from composer.measures.registry import MEASURES

_DENSE = (
    "A dense weight costs FLOPs every time it is used, so FLOPs determine the parameters of a dense arm: "
    "fewer than a sparse target has, or more where layers with weights of their own replace "
    "few experts. Training memory follows parameters. These arms are matched in the other budgets."
)
_DISTANCE = (
    "distance: the sum of |log2(new / old)| over changed sizes; doubling the width, the heads, "
    "the head size, the active experts or the hidden size counts 1, the number of experts 1/4"
)
_COLUMNS = 100
_HARD = "\xa0"


def percent(value: float) -> str:
    """Return a deviation in percent as text: `+1.23 %`, or `0 %` if there is none."""
    return "0 %" if value == 0 else f"{value:+.2f} %"


def changes(match: Match) -> str:
    """Return every changed size, such as `width 384 -> 376, expert.experts 384 -> 23`, or `nothing`."""
    return ", ".join(map(str, match.moves)) or "nothing"


def verdict(arm: Arm) -> str:
    """Return `yes`, or the measures that are off; a dense arm is matched `except` those it cannot have."""
    off = [MEASURES[r.measure].short or r.measure for r in arm.match.residuals if not r.holds]
    if not off:
        return "yes"
    return f"{'except' if arm.usable else 'no:'} {', '.join(off)}"


def table(arms: Sequence[Arm]) -> list[list[str]]:
    """Return the rows of the table of residuals, the header first."""
    head = ["arm", *(residual.measure for residual in arms[0].match.residuals), "distance", "matched"]
    rows = [
        [
            arm.name,
            *(percent(residual.percent) for residual in arm.match.residuals),
            f"{arm.match.distance:.2f}",
            verdict(arm),
        ]
        for arm in arms
    ]
    return [head, *rows]


def changed_sizes(arms: Sequence[Arm]) -> list[str]:
    """Return each arm's changed sizes, relative to the arm as derived, in lines of 100 columns."""
    width = max(len(arm.name) for arm in arms)
    lines = ["changed sizes, relative to each arm as derived:"]
    for arm in arms:
        indent = " " * (width + 4)
        head = f"  {arm.name:{width}}  "
        # no line is broken inside a change
        text = ", ".join(str(move).replace(" ", _HARD) for move in arm.match.moves) or "nothing"
        wrapped = wrap(text, _COLUMNS, initial_indent=head, subsequent_indent=indent, break_on_hyphens=False)
        lines += (line.replace(_HARD, " ") for line in wrapped)
    return [*lines, *wrap(_DISTANCE, _COLUMNS)]


def notes(spec: Spec, arms: Sequence[Arm]) -> list[str]:
    """Return paragraphs on options that arms leave out, and on arms that are not matched."""
    lacking: dict[str, list[str]] = {}
    for arm in arms:
        *keys, last = left_out(spec, arm.match.spec) or [""]
        if last:
            lacking.setdefault(f"{', '.join(keys)} and {last}" if keys else last, []).append(arm.name)
    lines = [f"{', '.join(names)}: without {keys} of {spec.name}." for keys, names in lacking.items()]
    lines += [_missed(spec, arm) for arm in arms if not arm.usable]
    if dense := [arm.name for arm in arms if arm.usable and not arm.match.holds]:
        lines.append(f"{', '.join(dense)}: {_DENSE}")
    for text in dict.fromkeys(text for arm in arms for text in arm.match.widened):
        lines.append(f"The base is itself outside the bounds of shape ({text}); its own value is the bound.")
    return lines


def _missed(spec: Spec, arm: Arm) -> str:
    off = [residual for residual in arm.match.residuals if not residual.holds]
    missed = " and ".join(f"{residual.measure} by {percent(residual.percent)}" for residual in off)
    text = (
        f"{arm.name}: no shape within the bounds was found to meet all budgets. The best one misses {missed}."
    )
    if arm.match.reached:
        text += f" It is at these bounds: {', '.join(arm.match.reached)}."
    needed = experts_needed(spec)
    if arm.name == "untied" and needed:
        text += (
            " At equal width, FLOPs and parameters each of its layers has about 1/steps of the target's "
            f"experts, so the target needs about 4 x active x steps = {needed} experts or more."
        )
    elif arm.name.startswith("untied"):
        text += (
            " Layers with weights of their own have more parameters than a recurrent stage at equal FLOPs."
        )
    return text


def markdown(spec: Spec, arms: Sequence[Arm], note: str) -> str:
    """Return the table of a spec's arms and the sizes changed in each; `note` says how it was made."""
    measures = [residual.measure for residual in arms[0].match.residuals]
    head = ["arm", *measures, "distance", "matched", "what it is"]
    limits = ", ".join(f"{r.measure} {r.tolerance:g} %" for r in arms[0].match.residuals)
    lines = [
        f"# Arms of {spec.name}",
        "",
        f"Each arm against {spec.name}. Within {limits} an arm counts as matched. {note}",
        "",
        *(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *map(_row, arms))),
        "",
        "Changed sizes, relative to each arm as derived:",
        "",
        *(f"- `{arm.name}`: {changes(arm.match)}" for arm in arms),
        "",
        f"{_DISTANCE[0].upper()}{_DISTANCE[1:]}.",
    ]
    for text in notes(spec, arms):
        lines += ["", text]
    return "\n".join(lines) + "\n"


def _row(arm: Arm) -> list[str]:
    cells = [f"{amount(r.measure, r.value)} ({percent(r.percent)})" for r in arm.match.residuals]
    return [f"`{arm.name}`", *cells, f"{arm.match.distance:.2f}", verdict(arm), arm.about]


def csv(arms: Sequence[Arm]) -> str:
    """Return one row for each arm and measure, in whole numbers and percent."""
    lines = ["arm,measure,value,target,residual_percent,tolerance_percent,matched,distance"]
    for arm in arms:
        for r in arm.match.residuals:
            numbers = f"{r.value:.0f},{r.target:.0f},{r.percent:.4f},{r.tolerance:g}"
            holds = "yes" if r.holds else "no"
            lines.append(f"{arm.name},{r.measure},{numbers},{holds},{arm.match.distance:.4f}")
    return "\n".join(lines) + "\n"


def plain(match: Match) -> dict[str, Any]:
    """Return a match as plain data for JSON."""
    return {
        "name": match.spec.name,
        "matched": match.holds,
        "distance": match.distance,
        "residuals": [
            {
                "measure": r.measure,
                "value": r.value,
                "target": r.target,
                "percent": r.percent,
                "tolerance": r.tolerance,
                "holds": r.holds,
            }
            for r in match.residuals
        ],
        "changed": [{"path": move.path, "old": move.old, "new": move.new} for move in match.moves],
        "at_bounds": list(match.reached),
        "widened_bounds": list(match.widened),
    }


def paragraphs(texts: Sequence[str]) -> Iterator[str]:
    """Yield texts as lines of 100 columns."""
    for text in texts:
        yield from wrap(text, _COLUMNS, subsequent_indent="  ")
