"""Attention over keys and values of several steps, stored in depth slots."""
