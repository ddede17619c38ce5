"""Charts as SVG: scales, axes and marks, styled by classes so that a page can be light or dark."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from xml.sax.saxutils import escape, quoteattr

from composer.draw.shapes import text_width
from composer.draw.svg import FONTS
from composer.page.theme import file_style

WIDE, NARROW = 780.0, 350.0
"""Widths of charts, for a desktop and for a phone, in pixels."""

Words = Callable[[float], str]
Span = tuple[float, float, float]

_CHAR = 7.1
"""Approximate width of a letter of a label, in pixels."""
_NAME_SIZE = 13
"""The size of the class `name` in chart.css, in pixels."""
_TITLE_SIZE = 12.5
"""The size of a text without a class in chart.css, in pixels."""


@dataclass(frozen=True)
class Scale:
    """Maps values to positions between `start` and `end`."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Return the position of a value."""
        low, high, value = map(self._coordinate, (self.low, self.high, value))
        return self.start + (value - low) / ((high - low) or 1) * (self.end - self.start)

    def _coordinate(self, value: float) -> float:
        return math.log(value) if self.log else value

    def ticks(self, most: int = 6) -> list[float]:
        """Return round values within the range."""
        if self.log:
            ticks = [
                digit * 10.0**power
                for power in range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
                for digit in (1, 2, 5)
            ]
            return [value for value in ticks if self.low <= value <= self.high]
        rough = (self.high - self.low) / most
        unit = 10.0 ** math.floor(math.log10(rough))
        step = next(unit * digit for digit in (1, 2, 5, 10) if unit * digit >= rough)
        first = math.ceil(self.low / step - 1e-9)
        return [number * step for number in range(first, math.floor(self.high / step + 1e-9) + 1)]


@dataclass(frozen=True)
class ErrorScale(Scale):
    """Maps accuracies by the logarithm of their error, so that 0.99 and 0.999 stand apart.

    An accuracy of 1, which has no error, stands where `high` does.
    """

    def _coordinate(self, value: float) -> float:
        return -math.log(1 - min(value, self.high))

    def ticks(self, most: int = 6) -> list[float]:
        """Return 0.5, 0.9, 0.95, 0.99, ... within the range."""
        nines, halves = ([1 - digit * 10.0**-power for power in range(1, 7)] for digit in (1, 5))
        inside = [value for value in sorted(nines + halves) if self.low <= value <= self.high]
        return inside if len(inside) <= most else [value for value in inside if value in nines]


def accuracy_scale(values: Iterable[float], start: float, end: float) -> Scale:
    """Make a scale of accuracies: by their errors if these differ by more than a factor of 20, else linear.

    Values that are no accuracies get a linear scale; a mean plus its spread may be up to 1.5.
    """
    numbers = [*values]
    errors = sorted({1 - value for value in numbers if value < 1})
    if not errors or errors[-1] > 1 or max(numbers) > 1.5 or errors[-1] <= 20 * errors[0]:
        return scale(numbers, start, end)
    least = max(errors[0] / (2 if max(numbers) >= 1 else 1.3), 1e-6)
    return ErrorScale(max(1 - 1.3 * errors[-1], 0.0), 1 - least, start, end)


def scale(values: Iterable[float], start: float, end: float, log: bool = False, room: float = 0.06) -> Scale:
    """Make a scale that includes all values, with a margin at both ends."""
    numbers = list(values) or [0.0, 1.0]
    low, high = min(numbers), max(numbers)
    if log and low > 0:
        spread = (high / low) ** room if high > low else 1.5
        return Scale(low / spread, high * spread, start, end, True)
    spread = (high - low) * room or abs(high) * 0.1 or 1.0
    return Scale(low - spread, high + spread, start, end)


@dataclass(frozen=True)
class Link:
    """Marks that link to a target in the page; if `reachable`, also by the Tab key."""

    target: str
    kind: str
    label: str
    items: Sequence[str]
    reachable: bool

    def __str__(self) -> str:
        reach = "" if self.reachable else ' tabindex="-1"'
        return (
            f'<a class="{self.kind}" href="#{self.target}"{reach} aria-label={quoteattr(self.label)}'
            f" data-tip={quoteattr(self.label)}>{''.join(self.items)}</a>"
        )

    def unlinked(self) -> str:
        """Write the marks alone."""
        return f'<g class="{self.kind}">{"".join(self.items)}</g>'


@dataclass
class Chart:
    """A chart of `width` by `height` pixels, with a description for screen readers."""

    width: float
    height: float
    title: str
    text: str
    items: list[str | Link] = field(default_factory=list)

    def line(self, points: Sequence[tuple[float, float]], kind: str) -> None:
        """Add a line through points."""
        self.items.append(f'<path class="{kind}" d="{path(points)}"/>')

    def box(self, x: float, y: float, width: float, height: float, kind: str, radius: float = 2) -> None:
        """Add a rectangle."""
        self.items.append(
            f'<rect class="{kind}" x="{n(x)}" y="{n(y)}" width="{n(max(width, 0))}" height="{n(height)}"'
            f' rx="{n(radius)}"/>'
        )

    def words(self, x: float, y: float, text: str, kind: str = "") -> None:
        """Add a text with its baseline at y."""
        self.items.append(label(x, y, text, kind))

    def dot(self, x: float, y: float, radius: float, kind: str) -> None:
        """Add a disc."""
        self.items.append(f'<circle class="{kind}" cx="{n(x)}" cy="{n(y)}" r="{n(radius)}"/>')

    def cross(self, x: Span, y: Span, kind: str) -> None:
        """Add a mean with its spread in both directions (low end, middle, high end), or a tick."""
        wide = x if x[0] != x[2] else (x[1] - 4.5, x[1], x[1] + 4.5)
        self.line([(wide[0], y[1]), (wide[2], y[1])], kind)
        self.line([(x[1], y[0]), (x[1], y[2])], kind)

    def link(self, target: str, kind: str, label: str, items: Sequence[str], reachable: bool) -> None:
        """Add marks that link to a target in the page; if `reachable`, also by the Tab key."""
        self.items.append(Link(target, kind, label, items, reachable))

    def below(
        self,
        axis: Scale,
        y: float,
        top: float,
        words: Words,
        title: str,
        ticks: Sequence[float] | None = None,
    ) -> None:
        """Add an axis below: grid lines up to `top`, values (round ones by default), a title."""
        last = -math.inf
        for value in axis.ticks() if ticks is None else ticks:
            x, text = axis(value), words(value)
            self.line([(x, y), (x, top)], "grid")
            if x - last >= _CHAR * len(text) + 8:
                self.words(x, y + 18, text, "tick middle")
                last = x
        half = text_width(title, _TITLE_SIZE) / 2
        middle = max(min((axis.start + axis.end) / 2, self.width - half), half)
        self.words(middle if 2 * half < self.width else self.width / 2, y + 38, title, "middle")

    def beside(self, axis: Scale, x: float, right: float, words: Words, title: str) -> None:
        """Add an axis to the left: grid lines up to `right`, values, a title above."""
        for value in axis.ticks():
            self.line([(x, axis(value)), (right, axis(value))], "grid")
            self.words(x - 8, axis(value) + 4, words(value), "tick end")
        room = self.width - text_width(title, _TITLE_SIZE)
        self.words(max(4, min(x, room)), min(axis.start, axis.end) - 14, title)

    def svg(self, alone: bool = False) -> str:
        """Return the SVG; `alone` means a separate file, in light colours, without links."""
        size = f'viewBox="0 0 {n(self.width)} {n(self.height)}"'
        head = f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" {size} font-family="{FONTS}"'
        if not alone:
            # a group, so that screen readers can reach its links
            inside = "".join(map(str, self.items))
            return f'{head} role="group" aria-label={quoteattr(self.title)}>{inside}</svg>'
        items = [item.unlinked() if isinstance(item, Link) else item for item in self.items]
        ground = f'<rect width="{n(self.width)}" height="{n(self.height)}" fill="#ffffff"/>'
        return "\n".join(
            [
                f'{head} width="{n(self.width)}" height="{n(self.height)}" role="img">',
                f"<title>{escape(self.title)}</title>",
                f"<desc>{escape(self.text)}</desc>",
                f"<style>\n{file_style()}</style>",
                ground,
                *items,
                "</svg>",
                "",
            ]
        )


def label(x: float, y: float, text: str, kind: str = "") -> str:
    """Return a text with its baseline at y."""
    return f'<text x="{n(x)}" y="{n(y)}" class="{kind}">{escape(text)}</text>'


def path(points: Sequence[tuple[float, float]]) -> str:
    """Return the SVG path through points."""
    return "M" + "L".join(f"{n(x)} {n(y)}" for x, y in points)


def n(value: float) -> str:
    """Format a coordinate."""
    return f"{value:.1f}".removesuffix(".0")


def width_of(text: str) -> float:
    """Return the approximate width of a label."""
    return _CHAR * len(text)


def name_width(text: str) -> float:
    """Return the approximate width of a label of the class `name`, which is bold."""
    return text_width(text, _NAME_SIZE, bold=True)


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move positions apart by at least `gap`, as little as possible, within bounds if they fit."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    places = [0.0] * len(wanted)
    below = -math.inf
    for i in order:
        below = places[i] = max(wanted[i], below + gap, low)
    above = math.inf
    for i in reversed(order):
        above = places[i] = min(places[i], above - gap, high)
    return places
