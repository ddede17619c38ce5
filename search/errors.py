"""The errors of a search."""

from __future__ import annotations

from composer.settings.errors import UserError


class SearchError(UserError):
    """A search cannot start or continue; the message says why, where, and what would help."""


class Crash(Exception):
    """A candidate cannot be trained, which does not end the search; the message is the reason."""
