"""Attention that reads keys and values of several steps, which are in depth slots."""
