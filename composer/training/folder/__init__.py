"""The folder of a run: its files, checkpoints, metrics and record of data."""
