"""Kernel launches, bytes and FLOPs of a training step on a GPU, counted without a GPU."""
