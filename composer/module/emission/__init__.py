"""Emits graphs as torch.fx code, in modules that hold the weights."""
