"""A dense feed-forward layer."""

from blocks.feed_forward.config import FeedForward

__all__ = ["FeedForward"]
