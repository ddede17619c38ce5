"""Attention with compressed keys and values (MLA)."""

from blocks.latent_attention.config import LatentAttention

__all__ = ["LatentAttention"]
