"""A whole page: its head, the navigation, the sections and its script, in one file that makes no requests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from composer.page.theme import file, page_style

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
"""The content security policy: the page makes no requests."""


@dataclass(frozen=True)
class Section:
    """One part of a page: its anchor, its name in the navigation, its heading, its HTML."""

    name: str
    short: str
    title: str
    body: str


def document(
    title: str, header: str, sections: Sequence[Section], script: str = "", points: Any = None
) -> str:
    """Return a self-contained page; `points` is what the script reads from the element of that name."""
    data = json.dumps(points, separators=(",", ":")).replace("<", "\\u003c")
    links = "".join(f'<a href="#{part.name}">{escape(part.short)}</a>' for part in sections)
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            f"<title>{escape(title)}</title>",
            '<link rel="icon" href="data:,">',
            f"<style>{page_style()}</style>",
            "</head>",
            "<body>",
            '<a class="skip" href="#main">Skip to the report</a>',
            header,
            f'<nav aria-label="Sections"><div>{links}</div>'
            '<button type="button" id="theme">Light / dark</button>'
            "</nav>",
            '<main id="main">',
            *(_section(part) for part in sections),
            "</main>",
            '<aside id="panel" aria-labelledby="panel-title" tabindex="-1" hidden></aside>',
            '<div id="tip" role="tooltip" hidden></div>',
            '<p id="said" role="status" class="quiet"></p>',
            f'<script type="application/json" id="points">{data}</script>',
            f"<script>{file('page.js')}</script>",
            f"<script>{script}</script>",
            "</body>",
            "</html>",
            "",
        ]
    )


def _section(part: Section) -> str:
    return (
        f'<section id="{part.name}" aria-labelledby="{part.name}-title">'
        f'<h2 id="{part.name}-title">{escape(part.title)}</h2>{part.body}</section>'
    )
