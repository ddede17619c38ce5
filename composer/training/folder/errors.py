"""What can go wrong with a run, in the user's words."""


class TrainingError(ValueError):
    """A run cannot start or go on; the message says why, where, and what would help."""
