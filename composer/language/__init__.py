"""The spec language: loading files, search spaces, and the resulting specs."""
