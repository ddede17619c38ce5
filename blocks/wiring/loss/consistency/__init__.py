"""A short pass that is trained towards a long one."""

from blocks.wiring.loss.consistency.config import ConsistencyLoss

__all__ = ["ConsistencyLoss"]
