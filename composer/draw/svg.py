"""Writing a picture as SVG."""

from __future__ import annotations

import math
from collections.abc import Iterator
from xml.sax.saxutils import escape

from composer.draw.shapes import Box, Circle, Detail, Group, Line, Picture, Polygon, Shape, Text

FONTS = "'Helvetica Neue', Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif"
_ARROW = (8.0, 3.6)  # length and half width


def svg(picture: Picture, alone: bool = True) -> str:
    """Write a picture. A file `alone` tells details in titles; within a page its parts take the focus."""
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_n(picture.width)} {_n(picture.height)}"'
        f' width="{_n(picture.width)}" height="{_n(picture.height)}" role="img"'
        f' aria-labelledby="picture-title picture-text" font-family="{FONTS}">',
        f'<title id="picture-title">{_text(picture.title)}</title>',
        f'<desc id="picture-text">{_text(picture.description)}</desc>',
    ]
    groups = {id(group): number for number, group in enumerate(picture.groups())}
    for item in picture.items:
        lines += _group(item, groups[id(item)], alone) if isinstance(item, Group) else _shape(item)
    return "\n".join([*lines, "</svg>", ""])


def _group(group: Group, number: int, alone: bool) -> Iterator[str]:
    yield f'<g id="part-{number}" class="part"' + (">" if alone else ' tabindex="0">')
    if alone:
        yield f"<title>{_text(detail_text(group.detail))}</title>"
    for item in group.items:
        yield from _shape(item)
    yield "</g>"


def detail_text(detail: Detail) -> str:
    """Write details as plain lines."""
    rows = ("  ".join(filter(None, row)) for row in detail.table[1:])
    return "\n".join([detail.heading, *detail.lines, *rows])


def _shape(item: Shape) -> Iterator[str]:
    match item:
        case Text():
            bold = ' font-weight="bold"' if item.bold else ""
            anchor = "" if item.anchor == "start" else f' text-anchor="{item.anchor}"'
            yield (
                f'<text x="{_n(item.x)}" y="{_n(item.y)}" font-size="{_n(item.size)}"{bold}{anchor}'
                f' fill="{item.colour}">{_text(item.text)}</text>'
            )
        case Box():
            radius = f' rx="{_n(item.radius)}"' if item.radius else ""
            yield (
                f'<rect x="{_n(item.x)}" y="{_n(item.y)}" width="{_n(item.width)}" height="{_n(item.height)}"'
                f"{radius}{_paint(item.fill, item.stroke, item.line)}/>"
            )
        case Circle():
            where = f'cx="{_n(item.x)}" cy="{_n(item.y)}" r="{_n(item.radius)}"'
            yield f"<circle {where}{_paint(item.fill, item.stroke, item.line)}/>"
        case Polygon():
            points = " ".join(f"{_n(x)},{_n(y)}" for x, y in item.points)
            yield f'<polygon points="{points}"{_paint(item.fill, item.stroke, item.line)}/>'
        case Line():
            yield from _line(item)


def _line(line: Line) -> Iterator[str]:
    points = list(line.points)
    arrows = []
    for asked, end, beside in ((line.head, -1, -2), (line.tail, 0, 1)):
        if asked:
            tip = points[end]
            points[end] = _towards(tip, points[beside], _ARROW[0] - 1)
            arrows.append(_arrow(tip, points[beside], line.colour))
    yield (
        f'<path d="{_path(points, line.bend)}" fill="none" stroke="{line.colour}"'
        f' stroke-width="{_n(line.width)}"/>'
    )
    yield from arrows


def _path(points: list[tuple[float, float]], bend: float) -> str:
    """Write a path whose corners are rounded, by no more than half of a side."""
    parts = [f"M{_at(points[0])}"]
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        reach = min(bend, math.dist(before, corner) / 2, math.dist(corner, after) / 2)
        if reach:
            start, end = _towards(corner, before, reach), _towards(corner, after, reach)
            parts.append(f"L{_at(start)}Q{_at(corner)} {_at(end)}")
        else:
            parts.append(f"L{_at(corner)}")
    parts.append(f"L{_at(points[-1])}")
    return "".join(parts)


def _arrow(tip: tuple[float, float], source: tuple[float, float], colour: str) -> str:
    length, half = _ARROW
    back = _towards(tip, source, length)
    across = ((tip[1] - back[1]) * half / length, (back[0] - tip[0]) * half / length)
    corners = (tip, (back[0] + across[0], back[1] + across[1]), (back[0] - across[0], back[1] - across[1]))
    points = " ".join(f"{_n(x)},{_n(y)}" for x, y in corners)
    return f'<polygon points="{points}" fill="{colour}"/>'


def _towards(start: tuple[float, float], end: tuple[float, float], distance: float) -> tuple[float, float]:
    whole = math.dist(start, end) or 1.0
    return (
        start[0] + (end[0] - start[0]) * distance / whole,
        start[1] + (end[1] - start[1]) * distance / whole,
    )


def _paint(fill: str, stroke: str, width: float) -> str:
    return f' fill="{fill}"' + ("" if stroke == "none" else f' stroke="{stroke}" stroke-width="{_n(width)}"')


def _at(point: tuple[float, float]) -> str:
    return f"{_n(point[0])} {_n(point[1])}"


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _text(text: str) -> str:
    return escape("".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text))
