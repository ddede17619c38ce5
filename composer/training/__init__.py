"""Training: a run is a folder, and whatever is killed goes on from it."""
