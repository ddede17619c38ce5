"""Lowering a spec to its graph: blocks lower themselves, the model adds embedding, head and loss."""
