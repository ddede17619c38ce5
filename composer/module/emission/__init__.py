"""From a graph to torch.fx code in modules that hold weights."""
