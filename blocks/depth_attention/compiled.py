"""Depth attention whose arithmetic torch.compile fuses: for a CPU, where it has no kernel of its own."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from blocks.depth_attention import reference
from blocks.kernels.slot_memory import SlotMemory


def attend(query: Tensor, token: Tensor, memory: SlotMemory, reads: int) -> Tensor:
    """Return the same as the reference, from functions that are compiled for one slot and for any number."""
    return reference.attend(query, token, memory, reads, _compiled())


@cache
def _compiled() -> reference.AttendFunctions:
    plain = reference.EAGER
    return reference.AttendFunctions(torch.compile(plain.forward), torch.compile(plain.backward))
