"""Records work on a device once and replays it: CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor

from composer.settings.errors import UserError

Work = Callable[[], Sequence[Tensor]]
"""Work on static tensors; it returns its outputs."""

CudaGraphChoice = Literal["auto", "on", "off"]
"""Whether steps are replayed from CUDA graphs: if it pays and works, always (else an error), or never."""

_WARM_UPS = 3
"""Warm-up runs before a recording, in which kernels are compiled and libraries allocate memory."""


class CannotCapture(UserError):
    """A step cannot be recorded as a CUDA graph, or its replay gives other results."""


def check_choice(choice: object) -> None:
    """Raise ValueError where something is no `CudaGraphChoice`."""
    if choice not in get_args(CudaGraphChoice):
        raise ValueError(f"cuda_graph: expected {', '.join(get_args(CudaGraphChoice))}, got {choice!r}")


class Recorder(Protocol):
    """Records work and replays it, all in one pool of memory.

    Later recordings may reuse memory that earlier ones free at their end. So no other work may run between
    two recordings that belong together, such as a forward pass and its backward pass.
    """

    def refusal(self, device: torch.device) -> str:
        """Return why it cannot record on a device, "" if it can."""
        ...

    def warm_up(self, work: Callable[[], object]) -> None:
        """Run work as often as needed before it is recorded."""
        ...

    def record(self, work: Work) -> tuple[list[Tensor], Callable[[], None]]:
        """Record work; return its output tensors, and a function that recomputes them in place.

        Their contents are undefined before the first replay.
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
        """Run work on a side stream, as PyTorch requires."""
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                work()
        torch.cuda.current_stream().wait_stream(stream)

    def record(self, work: Work) -> tuple[list[Tensor], Callable[[], None]]:
        """Record a graph; it runs for the first time when it is replayed."""
        graph = torch.cuda.CUDAGraph()
        # threads that pin memory for data may run on
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            made = [*work()]
        self._pool = self._pool or graph.pool()
        return made, graph.replay
