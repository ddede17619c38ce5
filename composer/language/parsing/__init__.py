"""Parses YAML into one merged tree of plain values with places, and resolves choices and references."""
