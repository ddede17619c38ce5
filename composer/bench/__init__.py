"""Benchmarks: what was compiled against the same model written by hand, side by side in one run."""
