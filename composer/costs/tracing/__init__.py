"""Costs of many candidates with the same structure: traced once, then evaluated as a function."""
