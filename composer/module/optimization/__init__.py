"""What a training step does to weights: the optimizer, its learning rates, their average."""
