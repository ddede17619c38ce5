"""AdamW, the default optimizer."""

from blocks.wiring.optimizer.adamw.config import AdamW

__all__ = ["AdamW"]
