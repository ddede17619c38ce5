"""Costs of many candidates of one structure: traced once, then run as a function."""
