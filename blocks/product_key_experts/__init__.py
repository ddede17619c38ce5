"""Very many small experts, found by product keys (PEER)."""

from blocks.product_key_experts.config import ProductKeyExperts

__all__ = ["ProductKeyExperts"]
