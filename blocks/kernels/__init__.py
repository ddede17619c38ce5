"""What Triton kernels share: where they run, how tensors have to lie, self-tests, memory for depth slots."""
