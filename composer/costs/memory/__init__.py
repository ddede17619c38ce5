"""Training memory: a replay of one training step, and the choice of recomputation."""
