"""The errors of a run."""

from composer.settings.errors import UserError


class TrainingError(UserError):
    """A run cannot start or continue; the message says why, where, and what would help."""
