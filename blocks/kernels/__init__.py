"""Shared code of custom kernels: targets, tensor layouts, self-tests, tile sizes, depth slots, KV caches."""
