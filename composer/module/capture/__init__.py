"""Work on a device that is recorded once, on tensors that stay where they are, and replayed: CUDA graphs."""
