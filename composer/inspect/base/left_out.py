"""What a measure raises that does not apply to a model."""

from __future__ import annotations


class LeftOut(Exception):
    """A measure does not apply to a model; its text says why."""
