"""Counting the costs of a spec over its graph."""
