"""Taps: operations that record values of a model while it runs, or replace them."""
