"""What a figure was measured on."""

from __future__ import annotations

import platform

import torch


def machine() -> dict[str, str | int]:
    """Return the device, its threads and the versions that decide speed."""
    cuda = torch.cuda.is_available()
    found: dict[str, str | int] = {
        "device": torch.cuda.get_device_name() if cuda else platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }
    if cuda:
        found["cuda"] = str(torch.version.cuda)
    return found
