"""Pages of a report, read back."""

from __future__ import annotations

import json
import re
from datetime import datetime
from html.parser import HTMLParser

NOW = datetime(2026, 1, 2, 3, 4)
VOID = {"meta", "link", "br", "wbr", "img", "input", "hr"}


class Checked(HTMLParser):
    """Ids, links and unclosed tags of a page, and every address in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.addresses: list[str] = []
        self.wrong: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.links += [attributes["href"]] if tag == "a" else []
        self.addresses += [
            attributes[key] for key in ("src", "href", "data", "action") if attributes.get(key)
        ]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.words.append(data)


def points(text: str) -> dict[str, dict]:
    match = re.search(r'<script type="application/json" id="points">(.*?)</script>', text, re.DOTALL)
    assert match is not None
    return json.loads(match[1])
