"""What can go wrong with a run, in the user's words."""

from composer.settings.errors import UserError


class TrainingError(UserError):
    """A run cannot start or go on; the message says why, where, and what would help."""
