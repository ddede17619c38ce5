"""Caps, and the nearest spec that fits them."""
