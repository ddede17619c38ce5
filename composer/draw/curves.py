"""Curves of quality against numbers of steps and FLOPs, side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from composer.costs.base.units import count_text
from composer.draw.shapes import Box, Circle, Line, Picture, Shape, Text
from composer.draw.theme import FAINT, HUES, INK, PAPER, PLAIN, RULE, SMALL, SOFT, TITLE

_WIDTH, _HEIGHT, _LEFT, _TOP, _GAP = 380.0, 260.0, 70.0, 70.0, 80.0
_COLOURS = [*(hue.strong for hue in HUES.values()), PLAIN.strong]


@dataclass(frozen=True)
class Measured:
    """Scores at one number of steps; `trained` where it is the one of training."""

    steps: int
    flops: float
    scores: Mapping[str, float]
    trained: bool = False


def curves(title: str, points: Sequence[Measured], names: Sequence[str]) -> Picture:
    """Draw the scores `names` against steps, and against FLOPs per token, both logarithmic.

    A dashed line is at the number of steps of training.
    """
    values = [point.scores[name] for point in points for name in names]
    low, high = min(values), max(values)
    room = (high - low) * 0.08 or max(abs(high), 1e-9) * 0.08
    low, high = low - room, high + room
    items: list[Shape] = [Text(_LEFT, 32, title, TITLE * 0.75, INK, bold=True)]
    for number, name in enumerate(names):
        x = _LEFT + 170 * number
        items.append(Circle(x + 4, 48, 4, _COLOURS[number % len(_COLOURS)]))
        items.append(Text(x + 14, 53, name, SMALL, INK))
    for panel, (label, values) in enumerate(
        [
            ("recurrent steps", [float(point.steps) for point in points]),
            ("FLOPs per token", [p.flops for p in points]),
        ]
    ):
        left = _LEFT + panel * (_WIDTH + _GAP)
        items += _panel(left, label, values, points, names, (low, high))
    words = "; ".join(
        f"{point.steps} steps: " + ", ".join(f"{name} {point.scores[name]:.4g}" for name in names)
        for point in points
    )
    return Picture(_LEFT + 2 * _WIDTH + _GAP + 40, _TOP + _HEIGHT + 60, title, words, [_paper(), *items])


def _paper() -> Shape:
    return Box(0, 0, _LEFT + 2 * _WIDTH + _GAP + 40, _TOP + _HEIGHT + 60, PAPER)


def _panel(
    left: float,
    label: str,
    values: Sequence[float],
    points: Sequence[Measured],
    names: Sequence[str],
    bounds: tuple[float, float],
) -> list[Shape]:
    low, high = bounds
    logs = [math.log(value) for value in values]
    first, span = min(logs), (max(logs) - min(logs)) or 1.0
    bottom = _TOP + _HEIGHT

    def x(value: float) -> float:
        return left + 20 + (math.log(value) - first) / span * (_WIDTH - 40)

    def y(value: float) -> float:
        return bottom - (value - low) / (high - low) * _HEIGHT

    items: list[Shape] = []
    for tick in range(5):
        value = low + (high - low) * tick / 4
        items.append(Line(((left, y(value)), (left + _WIDTH, y(value))), FAINT, 1))
        items.append(Text(left - 8, y(value) + 4, f"{value:.3g}", SMALL, SOFT, anchor="end"))
    items.append(Line(((left, bottom), (left + _WIDTH, bottom)), RULE, 1.2))
    for point, value in zip(points, values, strict=True):
        items.append(Text(x(value), bottom + 18, count_text(value), SMALL, SOFT, anchor="middle"))
        if point.trained:
            for piece in range(0, int(_HEIGHT), 12):
                items.append(Line(((x(value), _TOP + piece), (x(value), _TOP + piece + 6)), RULE, 1.2))
            items.append(Text(x(value) + 4, _TOP + 12, "trained", SMALL, SOFT))
    items.append(Text(left + _WIDTH / 2, bottom + 40, label, SMALL, INK, anchor="middle"))
    ordered = sorted(zip(values, points, strict=True), key=lambda pair: pair[0])
    for number, name in enumerate(names):
        colour = _COLOURS[number % len(_COLOURS)]
        places = tuple((x(value), y(point.scores[name])) for value, point in ordered)
        if len(places) > 1:
            items.append(Line(places, colour, 2))
        items += [Circle(*place, 3.5, colour) for place in places]
    return items
