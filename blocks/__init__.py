"""Blocks: what a step of a composed model may hold, one folder each."""
