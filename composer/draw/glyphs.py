"""Glyphs: a small picture of what each block type does, `WIDTH` x `HEIGHT` pixels."""

from __future__ import annotations

from collections.abc import Iterator

from composer.draw.shapes import Box, Circle, Line, Polygon, Shape
from composer.draw.theme import PAPER, Hue
from composer.draw.view import Use

WIDTH, HEIGHT = 132.0, 58.0

_TOKENS = 8
_COLUMNS = 6
_IN_ROW, _ROWS = 16, 4
_GOLDEN = 0.618034


def glyph(use: Use, x: float, y: float, hue: Hue, steps: int, context: int) -> list[Shape]:
    """Draw a block's glyph with its upper left corner at (x, y); unknown types are a plain box.

    `steps` is how many slots its depth scope has.
    """
    match use.block.type:
        case "sequence_attention":
            window = getattr(use.block, "window", None) or context
            return list(_comb(x, y, hue, window, context))
        case "depth_attention":
            return list(_staircase(x, y, hue, steps, getattr(use.block, "span", "") == "inclusive"))
        case "expert_attention":
            experts, active = getattr(use.block, "experts", 1), getattr(use.block, "active", 1)
            return list(_experts(x, y, hue, experts, active))
        case "feed_forward":
            return list(_hourglass(x, y, hue))
        case _:
            return list(_box(x, y, hue))


def _comb(x: float, y: float, hue: Hue, window: int, context: int) -> Iterator[Shape]:
    """Tokens in a row; the last one looks left at those it sees, itself among them."""
    size, pitch = 12.0, WIDTH / _TOKENS
    top, bar = y + HEIGHT - size - 3, y + 10
    seen = _TOKENS if window >= context else min(window, _TOKENS - 2)
    middles = [x + pitch * (n + 0.5) for n in range(_TOKENS)]
    for middle in middles[_TOKENS - seen : -1]:
        yield Line(((middle, bar), (middle, top - 2)), hue.strong, head=True, width=1.3)
    yield Line(
        ((middles[-1], top), (middles[-1], bar), (middles[_TOKENS - seen], bar)),
        hue.strong,
        bend=6,
        width=1.8,
    )
    for number, middle in enumerate(middles):
        visible = number >= _TOKENS - seen
        fill = hue.strong if number == _TOKENS - 1 else hue.middle if visible else PAPER
        yield Box(middle - size / 2, top, size, size, fill, hue.strong if visible else hue.middle, 2.5)


def _staircase(x: float, y: float, hue: Hue, steps: int, inclusive: bool) -> Iterator[Shape]:
    """Slots by step: each step appends one on top and reads those below, by default also its own."""
    shown = min(steps, _COLUMNS)
    size, gap = 7.4, 2.2
    pitch = min(WIDTH / shown, 24.0)
    bottom = y + HEIGHT - 1
    cut = steps > _COLUMNS
    for column in range(shown):
        middle = x + pitch * (column + 0.5)
        if cut and column == shown - 2:
            for dot in (-4.0, 0.0, 4.0):
                yield Circle(middle + dot, bottom - size / 2, 1.3, hue.strong)
            continue
        for row in range(column + 1):
            if cut and column == shown - 1 and row == 2:
                for dot in (-2.5, 0.0, 2.5):
                    yield Circle(middle, bottom - (size + gap) * row - size / 2 + dot, 0.9, hue.strong)
                continue
            newest = row == column
            fill = (hue.strong if inclusive else PAPER) if newest else hue.middle
            top = bottom - (size + gap) * row - size
            yield Box(middle - size, top, 2 * size, size, fill, hue.strong, 1.8, line=1.1)


def _experts(x: float, y: float, hue: Hue, experts: int, active: int) -> Iterator[Shape]:
    """Experts in a row, or in rows where they are many; the active ones are filled, the router above."""
    shown = min(experts, _IN_ROW * _ROWS)
    some = max(1, round(active * shown / experts))
    chosen = _spread(some, shown)
    columns = min(shown, _IN_ROW)
    rows = -(-shown // columns)
    pitch = min(WIDTH / columns, 20.0)
    left = x + (WIDTH - pitch * columns) / 2
    room = HEIGHT if rows > 1 else 34.0
    tall = room / rows
    top = y + HEIGHT - room
    if rows == 1:
        router = (x + WIDTH / 2, y + 6.0)
        for number in chosen:
            yield Line((router, (left + pitch * (number + 0.5), top - 1)), hue.strong, width=1.3)
        yield Circle(*router, 5, hue.strong)
    for number in range(shown):
        row, column = divmod(number, columns)
        gap = min(3.0, pitch / 4)
        fill = hue.strong if number in chosen else PAPER
        where = (left + pitch * column + gap / 2, top + tall * row + (1.5 if rows > 1 else 0))
        yield Box(*where, pitch - gap, tall - (3 if rows > 1 else 0), fill, hue.strong, 2, line=1.1)


def _spread(some: int, among: int) -> set[int]:
    """Choose some of a number of places, spread irregularly."""
    places = sorted(range(among), key=lambda place: (place + 1) * _GOLDEN % 1)
    return set(places[:some])


def _hourglass(x: float, y: float, hue: Hue) -> Iterator[Shape]:
    """Out to the hidden width and back."""
    middle, narrow, wide = y + HEIGHT / 2, 13.0, HEIGHT / 2 - 2
    for outer, inner in ((x + 14, x + 61), (x + WIDTH - 14, x + WIDTH - 61)):
        points = (
            (outer, middle - narrow),
            (inner, middle - wide),
            (inner, middle + wide),
            (outer, middle + narrow),
        )
        yield Polygon(points, hue.middle, hue.strong)
    yield Line(((x, middle), (x + 12, middle)), hue.strong, head=True)
    yield Line(((x + WIDTH - 14, middle), (x + WIDTH, middle)), hue.strong, head=True)


def _box(x: float, y: float, hue: Hue) -> Iterator[Shape]:
    """A plain box between input and output."""
    middle = y + HEIGHT / 2
    yield Box(x + 24, y + 8, WIDTH - 48, HEIGHT - 16, hue.middle, hue.strong, 5)
    yield Line(((x, middle), (x + 22, middle)), hue.strong, head=True)
    yield Line(((x + WIDTH - 24, middle), (x + WIDTH, middle)), hue.strong, head=True)
