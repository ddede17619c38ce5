"""Shared by all cost estimates: units, bytes per element, and a budget of work."""
