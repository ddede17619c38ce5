"""Conformance suites: what every block and every task has to hold, here and in other packages.

`composer conformance` runs them; a test calls the functions of `CHECKS` in `blocks` and `tasks`. Samplers and
stores of a search have theirs in `search.testing`.
"""
