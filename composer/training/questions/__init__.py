"""Scoring a trained model on questions of a file: right choices, right answers, loss of targets."""
