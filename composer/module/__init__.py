"""The module a graph is emitted as: code, weights, loops, training hooks."""
