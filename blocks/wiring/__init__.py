"""Wiring: the options of stages, parallel mixes and the model, one module or folder each."""
