"""The cores, free memory and GPUs of this machine, within the limits of a container. Torch-free."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_DRIVERS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
"""Device files, one of which exists if torch could find a GPU."""


def available_cores() -> int:
    """Return the CPU cores that this process may use: its affinity, limited by its cgroup."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, min([cores, *_core_quotas()]))


def available_memory() -> int:
    """Return the bytes of memory that new processes may use, limited by the cgroup."""
    return max(0, min([_free_memory(), *_memory_quotas()]))


def visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, each as CUDA_VISIBLE_DEVICES names it."""
    if not any(map(os.path.exists, _DRIVERS)):
        return []
    import torch

    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [str(number) for number in range(count)] if named is None else named.split(",")[:count]


def _free_memory() -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _core_quotas() -> Iterator[int]:
    for folder in _cgroups():
        quota, _, period = _text(folder / "cpu.max").partition(" ")
        if quota.isdecimal() and period.isdecimal():
            yield int(quota) // int(period)


def _memory_quotas() -> Iterator[int]:
    for folder in _cgroups():
        limit, used = _text(folder / "memory.max"), _text(folder / "memory.current")
        if limit.isdecimal() and used.isdecimal():
            # inactive file pages are reclaimed on demand
            stat = dict(line.split() for line in _text(folder / "memory.stat").splitlines())
            yield int(limit) - int(used) + int(stat.get("inactive_file", 0))


def _cgroups() -> Iterator[Path]:
    """Yield the folder of this process's cgroup (version 2), then its parents."""
    lines = _text(Path("/proc/self/cgroup")).splitlines()
    own = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), None)
    if own is not None:
        folder = _CGROUPS / own
        yield folder
        yield from (parent for parent in folder.parents if _CGROUPS in (parent, *parent.parents))


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
