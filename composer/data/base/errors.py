"""What goes wrong with data a user named."""

from composer.settings.errors import UserError


class DataError(UserError):
    """The data cannot be used as asked; the message names the file and what would help."""


class DataChanged(DataError):
    """The data is not what it was when a run began; the message says what changed."""


class Interrupted(DataError):
    """Work stopped for a reason outside of the data, such as a full disk; the same command continues it."""
