"""Training memory: a replay of what is alive while one training step runs, and what is recomputed."""
