"""Sparse attention over learned experts: a mixture of experts."""

from blocks.expert_attention.config import ExpertAttention

__all__ = ["ExpertAttention"]
