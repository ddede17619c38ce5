"""Counting what a spec costs over its graph."""
