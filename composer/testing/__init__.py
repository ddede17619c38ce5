"""Conformance suites: what every block, wiring option and task has to hold, here and in other packages.

`composer conformance` runs them; a test calls the functions of `CHECKS` in `blocks`, `wiring` and `tasks`.
Samplers and stores of a search have theirs in `search.testing`.
"""
