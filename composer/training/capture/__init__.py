"""Training by CUDA graphs: which steps are recorded, and where that is refused."""
