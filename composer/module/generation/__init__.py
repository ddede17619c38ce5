"""Decoding token by token with a KV cache."""
