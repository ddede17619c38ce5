"""Caps on costs, and the nearest spec within them."""
