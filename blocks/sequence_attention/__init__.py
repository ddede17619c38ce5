"""Causal self-attention among the tokens of one step."""

from blocks.sequence_attention.config import SequenceAttention

__all__ = ["SequenceAttention"]
