"""Targets and launches of GPU kernels. Importing it does not import torch."""

from __future__ import annotations

from contextlib import AbstractContextManager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from blocks.ir.kernel import Target

if TYPE_CHECKING:
    import torch


def off_gpu(operation: object, target: Target) -> str:
    """Return why a GPU kernel cannot run any operation on a target, or ""."""
    if target.device != "cuda":
        return "needs a GPU"
    known = target.dtype in ("float32", "float16", "bfloat16")
    return "" if known else f"it has no {target.dtype}"


def off_triton(operation: object, target: Target) -> str:
    """Return why a Triton kernel cannot run any operation on a target, or ""."""
    return off_gpu(operation, target) or ("" if find_spec("triton") else "triton is not installed")


def padded(size: int) -> int:
    """Return the next power of two, as Triton requires for block sizes."""
    return 1 << (size - 1).bit_length()


def architecture(device: torch.device) -> int:
    """Return the compute capability of a device, such as 90; 0 for a CPU."""
    import torch

    if device.type != "cuda":
        return 0
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def on(device: torch.device) -> AbstractContextManager[Any]:
    """Make a device the current CUDA device, on which Triton launches kernels."""
    import torch

    return torch.cuda.device(device if device.type == "cuda" else -1)
