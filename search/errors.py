"""What can go wrong with a search, in the user's words."""

from __future__ import annotations

from composer.settings.errors import UserError


class SearchError(UserError):
    """A search cannot start or go on; the message says why, where, and what would help."""


class Crash(Exception):
    """A candidate that cannot be trained, which is no fault of the search; the message is its reason."""
