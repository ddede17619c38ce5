"""Conformance suites: what every sampler and every store of a search has to hold, here and in other packages.

`composer conformance --kind sampler|store` runs them; a test calls the functions of `CHECKS`.
"""
