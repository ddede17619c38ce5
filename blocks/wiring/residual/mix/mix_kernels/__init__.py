"""Triton kernels of residual mixes, and the functions that run them."""
