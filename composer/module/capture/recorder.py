"""What records work on a device once and replays it: CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from composer.settings.errors import UserError

Work = Callable[[], Sequence[Tensor]]
"""Work on tensors that stay where they are; it returns what it makes."""

CudaGraphChoice = Literal["auto", "on", "off"]
"""Whether steps are replayed from CUDA graphs: where that pays and works, always or as an error, never."""

_WARM_UPS = 3
"""Runs before a recording, in which kernels are compiled and libraries take their memory."""


class CannotCapture(UserError):
    """A CUDA graph cannot hold a step, or does not compute what the step does."""


class Recorder(Protocol):
    """Records work and replays it, all in one pool of memory.

    What is recorded later may use the memory that earlier work leaves free at its end. So nothing may run
    between two recordings that belong together, such as a forward pass and its backward pass.
    """

    def refusal(self, device: torch.device) -> str:
        """Return why it cannot record on a device, "" if it can."""
        ...

    def warm_up(self, work: Callable[[], object]) -> None:
        """Run work as often as has to be before it is recorded."""
        ...

    def record(self, work: Work) -> tuple[list[Tensor], Callable[[], None]]:
        """Record work; return the tensors that it makes, and what makes them anew in the same place.

        They hold nothing of use before the first replay.
        """
        ...


class CudaGraphs:
    """Records CUDA graphs on the current device."""

    def __init__(self) -> None:
        self._pool: Any = None

    def refusal(self, device: torch.device) -> str:
        """Return why it cannot record on a device, "" if it can."""
        return "" if device.type == "cuda" else f"expected a GPU, got the device {device.type}"

    def warm_up(self, work: Callable[[], object]) -> None:
        """Run work on a stream of its own, as torch asks for."""
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                work()
        torch.cuda.current_stream().wait_stream(stream)

    def record(self, work: Work) -> tuple[list[Tensor], Callable[[], None]]:
        """Record a graph; it runs for the first time when it is replayed."""
        graph = torch.cuda.CUDAGraph()
        # threads that pin memory for data may go on
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            made = [*work()]
        self._pool = self._pool or graph.pool()
        return made, graph.replay
