"""Depth attention with torch.compile, for CPUs, which the Triton kernels do not support."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from blocks.depth_attention import reference
from blocks.kernels.slot_memory import SlotMemory


def attend(query: Tensor, token: Tensor, memory: SlotMemory, *, reads: int) -> Tensor:
    """Return `reference.attend` with functions compiled for one slot and for any number of slots."""
    return reference.attend(query, token, memory, reads=reads, functions=_compiled())


@cache
def _compiled() -> reference.AttendFunctions:
    plain = reference.EAGER
    return reference.AttendFunctions(torch.compile(plain.forward), torch.compile(plain.backward))
