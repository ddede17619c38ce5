"""Combining the branches of a parallel mix."""

from blocks.wiring.combine.config import GateBranches, MeanOfBranches, SumOfBranches

__all__ = ["GateBranches", "MeanOfBranches", "SumOfBranches"]
