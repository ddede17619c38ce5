"""Writes a picture as an HTML page: the SVG, with details of each part on hover."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from composer.draw.shapes import Detail, Picture
from composer.draw.svg import FONTS, svg
from composer.draw.theme import DARKENED

_STYLE = """
body { margin: 24px; background: #fff; color: #1b2430; font: 14px/1.45 FONTS; }
main { overflow-x: auto; }
svg { display: block; max-width: 100%; height: auto; margin: 0 auto; }
.part { cursor: default; outline: none; }
.part:hover > rect:first-of-type, .part:focus > rect:first-of-type { stroke: #1b2430; stroke-width: 2.4; }
#details { position: fixed; max-width: min(760px, calc(100vw - 32px)); padding: 12px 16px; background: #fff;
  border: 1px solid #c3cad3; border-radius: 8px; box-shadow: 0 6px 24px rgb(27 36 48 / 18%);
  pointer-events: none; }
#details h2 { margin: 0 0 4px; font-size: 15px; }
#details p { margin: 0; color: #55606e; }
#details table { margin-top: 8px; border-collapse: collapse; font-size: 13px; }
#details th, #details td { padding: 2px 14px 2px 0; text-align: left; vertical-align: top; }
#details th { border-bottom: 1px solid #c3cad3; font-weight: 600; }
#details .number { padding-right: 0; padding-left: 10px; text-align: right; white-space: nowrap; }
@media screen and (max-width: 640px) {
  body { margin: 8px; }
  #details table { font-size: 11px; }
}
@media screen and (prefers-color-scheme: dark) {
  body { background: #1a1a1a; }
  svg, #details { filter: DARKENED; }
}
""".replace("FONTS", FONTS).replace("DARKENED", DARKENED)

_SCRIPT = """
const details = document.getElementById("details");
function show(part, x, y) {
  details.replaceChildren(document.getElementById("detail-" + part.id).content.cloneNode(true));
  details.hidden = false;
  const room = details.getBoundingClientRect();
  details.style.left = Math.max(8, Math.min(x + 16, innerWidth - room.width - 8)) + "px";
  details.style.top = Math.max(8, y + 16 + room.height < innerHeight ? y + 16 : y - room.height - 16) + "px";
}
for (const part of document.querySelectorAll(".part")) {
  part.addEventListener("pointermove", event => show(part, event.clientX, event.clientY));
  part.addEventListener("focus", () => {
    const at = part.getBoundingClientRect();
    show(part, at.left, at.bottom);
  });
  for (const end of ["pointerleave", "blur"]) part.addEventListener(end, () => { details.hidden = true; });
}
"""
_LEAST = 0.85
"""How small a picture may be shown."""
_NUMBERS = 2
"""How many columns of a table, at its end, are numbers."""


def html(picture: Picture) -> str:
    """Return a picture as a self-contained page, without network access or other files."""
    templates = (
        f'<template id="detail-part-{number}">{"".join(_detail_html(group.detail))}</template>'
        for number, group in enumerate(picture.groups())
    )
    lines = (
        "<!doctype html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(picture.title)}</title>",
        # below this width it scrolls sideways, since smaller text cannot be read
        f"<style>{_STYLE}svg {{ min-width: {_LEAST * picture.width:.0f}px; }}</style>",
        "</head>",
        "<body>",
        "<main>",
        svg(picture, alone=False),
        "</main>",
        *templates,
        '<div id="details" role="tooltip" hidden></div>',
        f"<script>{_SCRIPT}</script>",
        "</body>",
        "</html>",
        "",
    )
    return "\n".join(lines)


def _detail_html(detail: Detail) -> Iterator[str]:
    yield f"<h2>{escape(detail.heading)}</h2>"
    yield from (f"<p>{escape(line)}</p>" for line in detail.lines)
    if len(detail.table) > 1:
        head, *rows = detail.table
        yield f"<table><tr>{''.join(_cells('th', head))}</tr>"
        yield from (f"<tr>{''.join(_cells('td', row))}</tr>" for row in rows)
        yield "</table>"


def _cells(tag: str, row: tuple[str, ...]) -> Iterator[str]:
    for number, text in enumerate(row):
        kind = ' class="number"' if number >= len(row) - _NUMBERS else ""
        yield f"<{tag}{kind}>{escape(text)}</{tag}>"
