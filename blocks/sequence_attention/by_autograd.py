"""Sequence attention as plain PyTorch with gradients by autograd, which exported models run.

q: [B, S, heads, head_dim]; k, v: [B, S, kv_heads, head_dim].
"""

from __future__ import annotations

from torch import Tensor

from blocks.kernels.depth_slots import DepthSlots
from blocks.sequence_attention.capped_reference import capped
from blocks.sequence_attention.slots.first_reference import attended_first
from blocks.sequence_attention.slots.joint_reference import attended_joint
from blocks.sequence_attention.slots.steps_reference import attended_steps


def attend_capped(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, cap: float) -> Tensor:
    """Attend where the mask [S, S] is True with scores cap * tanh(score / cap), at least in fp32."""
    return capped(q, k, v, mask, cap)[0]


def attend_joint(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor, token: Tensor, memory: DepthSlots, reads: int
) -> Tensor:
    """Attend, with one softmax, to tokens where the mask [S, S] is True and to the first `reads` slots."""
    return attended_joint(q, k, v, mask, memory.read(slice(reads)) if reads else None)[0]


def attend_steps(q: Tensor, mask: Tensor, token: Tensor, memory: DepthSlots, reads: int) -> Tensor:
    """Attend where the mask [S, S] is True to the tokens in each of the first `reads` slots."""
    return attended_steps(q, mask, *memory.read(slice(reads)))[0]


def attend_first(q: Tensor, places: Tensor, token: Tensor, memory: DepthSlots) -> Tensor:
    """Causal attention to the tokens in the first slot; places: those of the queries [B, chosen]."""
    keys, values = memory.read(slice(1))
    return attended_first(q, places, keys[0], values[0])[0]
