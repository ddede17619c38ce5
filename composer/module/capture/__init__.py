"""CUDA graphs: work on static tensors that is recorded once and replayed."""
