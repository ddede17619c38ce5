"""Faults on the terminal: plain where it is no terminal, with the key picked out where it is."""

from __future__ import annotations

import sys

from composer.settings.errors import SpecError


def report(error: Exception) -> None:
    """Print a user's error to stderr, one fault a line."""
    if not isinstance(error, SpecError) or not sys.stderr.isatty():
        print(error, file=sys.stderr)
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    for line, fault in zip(str(error).splitlines(), error.faults, strict=False):
        text = Text(line)
        if fault.path:
            text.highlight_words([f"{fault.path}:"], "bold")
        text.highlight_regex(r"^\S+:\d+:\d+|^--set \S+", "cyan")
        text.highlight_regex(r"\([^()]*\)$", "green")
        console.print(text)
    for line in str(error).splitlines()[len(error.faults) :]:
        console.print(Text(line, "dim"))
