"""Specs as text: in full, as differences, as a JSON Schema for editors."""
