"""Measures the peak rates of this machine: matrix products, copies, and the overhead of an operation."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from typing import TYPE_CHECKING

from composer.costs.time.devices import Device, DeviceError

if TYPE_CHECKING:
    import torch

SECONDS = 1.5
"""Maximum seconds of each measurement, including warm-up."""

_PRODUCTS = {"cuda": (4096, 8192, 16384), "cpu": (512, 1024, 2048)}
_COPIES = {"cuda": (1 << 30, 1 << 32), "cpu": (1 << 26, 1 << 28)}


def calibrate(kind: str) -> Device:
    """Measure the `cpu` or `cuda` device in a few seconds; on a CPU with torch's threads.

    Raises:
        DeviceError: there is none.
    """
    import torch

    if kind == "cuda" and not torch.cuda.is_available():
        raise DeviceError("expected a CUDA device, got a machine without one")
    with torch.no_grad():
        return Device(
            fp32=max(_products(kind, torch.float32)),
            bf16=max(_products(kind, torch.bfloat16)),
            bandwidth=max(_copies(kind)),
            overhead=_overhead(kind),
            source=_name(kind),
            kind="cuda" if kind == "cuda" else "cpu",
        )


def _name(kind: str) -> str:
    import torch

    if kind == "cuda":
        return f"measured: {torch.cuda.get_device_name()}, torch {torch.__version__}"
    return f"measured: {torch.get_num_threads()} threads, torch {torch.__version__}"


def _products(kind: str, dtype: torch.dtype) -> Iterator[float]:
    """Yield FLOP/s of square matrix products of growing size while time allows."""
    import torch

    for size in _PRODUCTS[kind]:
        a, b = (torch.randn(size, size, device=kind).to(dtype) for _ in range(2))
        out = torch.empty_like(a)
        seconds = _seconds(kind, partial(torch.mm, a, b, out=out))
        yield 2 * size**3 / seconds
        if 8 * seconds > SECONDS:
            return


def _copies(kind: str) -> Iterator[float]:
    """Yield bytes/s (read and written) of copies of several sizes."""
    import torch

    for size in _COPIES[kind]:
        a = torch.ones(size // 4, device=kind)
        b = torch.empty_like(a)
        yield 2 * size / _seconds(kind, partial(b.copy_, a))


def _overhead(kind: str) -> float:
    """Return the seconds per addition of tiny tensors, many in a row."""
    import torch

    a, count = torch.ones(8, device=kind), 200

    def run() -> None:
        for _ in range(count):
            torch.add(a, 1.0)

    return _seconds(kind, run) / count


def _seconds(kind: str, run: Callable[[], object]) -> float:
    """Return the median time of a call, over as many calls as the time allows."""
    import torch

    end, times = time.perf_counter() + SECONDS, list[float]()
    while not times or time.perf_counter() < end:
        begin = time.perf_counter()
        run()
        if kind == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    # the first call warms up, where there is time for more
    return median(times[1:] or times)
