"""Data: which tasks there are, their batches, and the Lightning data module that serves them."""
