"""Colours of pages, light and dark: those of `composer draw`, distinct for the colour-blind and in grey.

Colour is never the only difference: marks also differ in shape.
"""

from __future__ import annotations

import re
from importlib.resources import files

from composer.draw.theme import DARKENED, FAINT, HUES, INK, PAPER, RULE, SOFT

LIGHT = {
    "paper": PAPER,
    "page": "#f4f6f8",
    "ink": INK,
    "soft": SOFT,
    "rule": RULE,
    "faint": FAINT,
    "blue": HUES["sequence_attention"].strong,
    "pale": HUES["sequence_attention"].pale,
    "orange": HUES["depth_attention"].strong,
    "green": HUES["expert_attention"].strong,
    "purple": HUES["feed_forward"].strong,
    "warn": "#fdf3ea",
    "shade": "rgb(0 0 0 / 14%)",
    "picture": "none",
}
DARK = {
    "paper": "#171d26",
    "page": "#0f141b",
    "ink": "#e7ecf2",
    "soft": "#a3afbd",
    "rule": "#465262",
    "faint": "#28313d",
    "blue": "#74b0f4",
    "pale": "#1d2a3b",
    "orange": "#f29b52",
    "green": "#4fc8a6",
    "purple": "#bf9df0",
    "warn": "#33271b",
    "shade": "rgb(0 0 0 / 70%)",
    "picture": DARKENED,
}


def page_style() -> str:
    """Return the style sheet of the page: both palettes, the page, its charts."""
    light, dark = (
        "".join(f"--{name}:{value};" for name, value in palette.items()) for palette in (LIGHT, DARK)
    )
    chosen = (
        f":root{{color-scheme:light;{light}}}\n"
        f'@media screen and (prefers-color-scheme:dark){{:root:not([data-theme="light"])'
        f"{{color-scheme:dark;{dark}}}}}\n"
        f'@media screen{{:root[data-theme="dark"]{{color-scheme:dark;{dark}}}}}\n'
    )
    return chosen + file("page.css") + file("chart.css")


def file_style() -> str:
    """Return the style sheet of a figure in a separate file: light, without variables."""
    return re.sub(r"var\(--(\w+)\)", lambda name: LIGHT[name[1]], file("chart.css"))


def file(name: str) -> str:
    """Return the text of a file beside this one."""
    return files("composer.page").joinpath(name).read_text(encoding="utf-8")
