"""The same models written by hand in plain PyTorch."""
