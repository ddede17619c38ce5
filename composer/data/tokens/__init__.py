"""Tokenized data on disk: the manifest, memory-mapped shards, windows of them, and mixtures of sources."""
