"""Proposing candidates: samplers, evolution, and the choice of feasible, new points."""
