"""Estimates of a training step's time on named or measured devices."""
