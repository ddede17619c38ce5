"""What belongs to one running backward pass: its number, and letting go of what it left behind."""

from __future__ import annotations

import weakref
from functools import partial
from typing import Protocol

import torch


class Holds(Protocol):
    """Something that keeps tensors for backward passes, by their numbers."""

    def drop(self, number: int) -> None:
        """Drop what a backward pass left behind."""


def running() -> int:
    """Return the number of the backward pass that is running, -1 where none is."""
    return torch._C._current_graph_task_id()


def drop_at_end(held: Holds) -> None:
    """Let something drop what it keeps for the running backward pass when that ends."""
    drop = partial(_drop, weakref.ref(held), running())
    torch.autograd.Variable._execution_engine.queue_callback(drop)


def _drop(reference: weakref.ref[Holds], number: int) -> None:
    if (held := reference()) is not None:
        held.drop(number)
