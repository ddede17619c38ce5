"""Shapes of a picture: plain data with coordinates in pixels, y downwards, independent of SVG."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Anchor: TypeAlias = Literal["start", "middle", "end"]

# widths in em, the widest of common sans-serif fonts, so that no viewer's choice of font clips a text
_WIDTHS = {
    **dict.fromkeys(" ijlI.,:;'|!()[]/-·ftr", 0.42),
    **dict.fromkeys("ABCDEFGHKLNOPQRSTUVXYZ", 0.8),
    **dict.fromkeys("mwM+\u00d7→&", 0.98),
    **dict.fromkeys("W%@…", 1.03),
}
_USUAL, _UNKNOWN, _BOLD = 0.65, 1.05, 1.13


def text_width(text: str, size: float, bold: bool = False) -> float:
    """Estimate the width of a line of text from above."""
    em = sum(_WIDTHS.get(c, _USUAL if c.isascii() else _UNKNOWN) for c in text)
    return em * size * (_BOLD if bold else 1.0)


def wrapped(text: str, width: float, size: float, bold: bool = False) -> tuple[str, ...]:
    """Break a text between words into lines of at most `width`; a longer word has a line of its own."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(longer, size, bold) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return tuple(lines)


@dataclass(frozen=True)
class Text:
    """One line of text; `y` is its baseline."""

    x: float
    y: float
    text: str
    size: float
    colour: str
    bold: bool = False
    anchor: Anchor = "start"


@dataclass(frozen=True)
class Box:
    """A rectangle with rounded corners."""

    x: float
    y: float
    width: float
    height: float
    fill: str
    stroke: str = "none"
    radius: float = 0
    line: float = 1.2


@dataclass(frozen=True)
class Line:
    """A line through points, with corners rounded by `bend` and optional arrowheads."""

    points: tuple[tuple[float, float], ...]
    colour: str
    width: float = 1.6
    bend: float = 0
    head: bool = False
    tail: bool = False


@dataclass(frozen=True)
class Circle:
    """A circle."""

    x: float
    y: float
    radius: float
    fill: str
    stroke: str = "none"
    line: float = 1.6


@dataclass(frozen=True)
class Polygon:
    """A closed shape."""

    points: tuple[tuple[float, float], ...]
    fill: str
    stroke: str = "none"
    line: float = 1.2


@dataclass(frozen=True)
class Detail:
    """Details of a group: a heading, lines, and a table whose first row is its header."""

    heading: str
    lines: tuple[str, ...] = ()
    table: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class Group:
    """Shapes that belong together and share details."""

    detail: Detail
    items: list[Shape] = field(default_factory=list)


Shape: TypeAlias = Text | Box | Line | Circle | Polygon | Group


@dataclass(frozen=True)
class Picture:
    """A picture with its size, a title and a description for screen readers."""

    width: float
    height: float
    title: str
    description: str
    items: list[Shape]

    def flat(self) -> Iterator[Text | Box | Line | Circle | Polygon]:
        """Yield every visible shape, including those in groups."""
        yield from _flat(self.items)

    def groups(self) -> Iterator[Group]:
        """Yield the groups."""
        yield from (item for item in self.items if isinstance(item, Group))


def _flat(items: list[Shape]) -> Iterator[Text | Box | Line | Circle | Polygon]:
    for item in items:
        if isinstance(item, Group):
            yield from _flat(item.items)
        else:
            yield item
