"""Passes: small functions over graphs, one in each file."""
