"""Conformance suites for samplers and stores, of this package and of others.

`composer conformance --kind sampler|store` runs them; a test calls the functions of `CHECKS`.
"""
