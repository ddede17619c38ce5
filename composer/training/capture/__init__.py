"""Training steps replayed from CUDA graphs: which are recorded, and where that is refused."""
