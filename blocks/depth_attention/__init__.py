"""Attention of each token over its own states of earlier steps."""

from blocks.depth_attention.config import DepthAttention

__all__ = ["DepthAttention"]
