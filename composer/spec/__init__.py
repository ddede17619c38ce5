"""The spec language: reading YAML with places kept, merging, resolving, validating, identity, spaces."""
