"""What goes wrong with data a user named."""


class DataError(ValueError):
    """The data cannot be used as asked; the message names the file and what would help."""


class DataChanged(DataError):
    """The data is not what it was when a run began; the message says what changed."""
