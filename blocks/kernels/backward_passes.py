"""The id of the running backward pass, and cleanup when it ends."""

from __future__ import annotations

import weakref
from functools import partial
from typing import Protocol

import torch


class PerPassStorage(Protocol):
    """An object that stores tensors per backward pass."""

    def drop(self, number: int) -> None:
        """Drop the tensors of a backward pass."""


def running() -> int:
    """Return the id of the running backward pass, -1 if none is running."""
    return torch._C._current_graph_task_id()


def drop_at_end(held: PerPassStorage) -> None:
    """Call `held.drop` for the running backward pass when that ends."""
    drop = partial(_drop, weakref.ref(held), running())
    torch.autograd.Variable._execution_engine.queue_callback(drop)


def _drop(reference: weakref.ref[PerPassStorage], number: int) -> None:
    if (held := reference()) is not None:
        held.drop(number)
