"""The spec language: loading files, spaces, and what a loaded spec is."""
