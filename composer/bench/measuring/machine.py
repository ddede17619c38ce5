"""The machine of a benchmark, and its peak rates measured in the same run."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from statistics import median
from typing import NamedTuple

import torch

from composer.bench.measuring.clocks import Clock

_CLOCKS = ("clocks.sm", "clocks.mem", "clocks.max.sm", "power.limit", "driver_version")


class Rates(NamedTuple):
    """The rates that floors are computed from.

    Attributes:
        copy: bytes per second that a large copy reads and writes together.
        product: FLOP/s of a large square product in the dtype of the benchmark.
    """

    copy: float
    product: float

    def floor(self, moved: float, flops: float = 0.0) -> float:
        """Return the minimal time in seconds for moving bytes and computing products, whichever is longer."""
        return max(moved / self.copy, flops / self.product)


def machine() -> dict[str, str | int]:
    """Return the device, its threads, the relevant versions, and a GPU's clocks."""
    cuda = torch.cuda.is_available()
    facts: dict[str, str | int] = {
        "device": torch.cuda.get_device_name() if cuda else platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        **_versions("attention-composer", "triton"),
    }
    if cuda:
        facts["cuda"] = str(torch.version.cuda)
        facts |= clocks()
    return facts


def clocks() -> dict[str, str | int]:
    """Return the clocks and the power limit of the first GPU, as far as its driver reports them."""
    asked = f"--query-gpu={','.join(_CLOCKS)}"
    try:
        output = subprocess.run(
            ["nvidia-smi", asked, "--format=csv,noheader", f"--id={torch.cuda.current_device()}"],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    return {name: each.strip() for name, each in zip(_CLOCKS, output.strip().split(","), strict=False)}


def rates(device: torch.device, dtype: torch.dtype, clock: Clock, small: bool) -> Rates:
    """Measure the rates of a large copy and a large product; `small` on shared devices."""
    rows, side = (1 << 24, 512) if small else (1 << 30, 8192)
    source = torch.ones(rows // 4, device=device)
    out = torch.empty_like(source)
    copied = _best(partial(out.copy_, source), clock)
    del source, out
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    made = torch.empty_like(a)
    multiplied = _best(partial(torch.mm, a, b, out=made), clock)
    return Rates(2 * rows / copied, 2 * side**3 / multiplied)


def _best(run: Callable[[], object], clock: Clock) -> float:
    for _ in range(3):
        run()
    return median(clock(run) for _ in range(10))


def _versions(*packages: str) -> dict[str, str | int]:
    versions: dict[str, str | int] = {}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return versions
