"""Colours and sizes. Hues are distinct for colour-blind readers, and by lightness in greyscale."""

from __future__ import annotations

from typing import NamedTuple

PAPER = "#ffffff"
INK = "#1b2430"
SOFT = "#55606e"
RULE = "#c3cad3"
FAINT = "#e4e8ed"
STAGES = ("#f5f7f9", "#eaeef2")
"""What stages are filled with, by depth of nesting in turn."""
BAR = "#edf0f3"

DARKENED = "invert(0.9) hue-rotate(180deg)"
"""The CSS filter that shows a picture on a dark page: lightness turned round, hues kept."""

TIMES = "\u00d7"

TITLE, NAME, BODY, SMALL = 24.0, 17.0, 14.0, 13.0


class Hue(NamedTuple):
    """The colours of one type of block: lines and strong fills, half-strong fills, background."""

    strong: str
    middle: str
    pale: str


PLAIN = Hue("#4d5866", "#a9b2bd", "#f1f3f5")
HUES = {
    "sequence_attention": Hue("#1d5aa6", "#9dbfe6", "#eef4fb"),
    "depth_attention": Hue("#d9660f", "#f3be92", "#fdf3ea"),
    "expert_attention": Hue("#0f8464", "#93d0bd", "#ebf7f3"),
    "feed_forward": Hue("#7d55a8", "#c9b4e0", "#f5f0fa"),
}


def hue(kind: str) -> Hue:
    """Return the colours of a block type; types from other packages share neutral ones."""
    return HUES.get(kind, PLAIN)
