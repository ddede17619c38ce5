"""Taking a model away: one file of plain PyTorch that imports nothing of ours, beside its weights."""
