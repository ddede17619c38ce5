"""Timing contestants side by side, and the records of the results."""
