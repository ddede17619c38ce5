"""Devices for time estimates: named ones, and those measured by `composer calibrate`."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from composer.settings.errors import UserError, os_message


class DeviceError(UserError):
    """A device is missing, or its figures cannot be read."""


class UnknownDevice(DeviceError):
    """An unknown device name, with the names expected and the name given."""

    def __init__(self, expected: str, got: str) -> None:
        super().__init__(f"expected {expected}, got {got}")
        self.expected, self.got = expected, got


@dataclass(frozen=True)
class Device:
    """Peak rates of a device.

    Attributes:
        fp32: FLOP/s of large fp32 products.
        bf16: FLOP/s of large bf16 products.
        bandwidth: bytes/s that a copy reads and writes together.
        overhead: minimum seconds of an operation; 0 if not measured.
        source: where the figures come from.
        kind: the device type of PyTorch, which decides the kernels of a plan.
    """

    fp32: float
    bf16: float
    bandwidth: float
    overhead: float = 0.0
    source: str = ""
    kind: Literal["cpu", "cuda"] = "cuda"


NAMED = {
    "h100": Device(
        67e12,
        687e12,
        3.0e12,
        source="80 GB SXM: bf16 and copy of one machine, fp32 data sheet",
    ),
    "h200": Device(67e12, 687e12, 4.3e12, source="as h100, copy scaled by the data sheets' bandwidths"),
    "a100": Device(19.5e12, 312e12, 2.0e12, source="80 GB SXM, data sheet"),
    "cpu": Device(1e11, 1e11, 1e10, source="a guess at two cores; `composer calibrate` measures", kind="cpu"),
}
"""Rates before any calibration. No TF32: torch's default is full fp32."""


def devices() -> dict[str, Device]:
    """Return all devices by name; calibrated devices of this account replace the built-in ones.

    Raises:
        DeviceError: the file of calibrated devices cannot be read.
    """
    return {**NAMED, **_calibrated(calibrations())}


def device(name: str) -> Device:
    """Return a device by name.

    Raises:
        DeviceError: there is none of that name.
    """
    known = devices()
    if name not in known:
        near = get_close_matches(name, known, 1)
        hint = f" (did you mean {near[0]}?)" if near else "; `composer calibrate --name` adds one"
        raise UnknownDevice(f"a device, one of {', '.join(known)}", f"{name!r}{hint}")
    return known[name]


def calibrations() -> Path:
    """Return the file that holds the devices calibrated on this account."""
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "attention-composer" / "devices.json"


def calibrated_text(name: str, device: Device) -> str:
    """Return the content of that file with one more device."""
    known = _calibrated(calibrations()) | {name: device}
    return json.dumps({key: asdict(value) for key, value in known.items()}, indent=2) + "\n"


def _calibrated(path: Path) -> dict[str, Device]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise DeviceError(f"the calibrated devices cannot be read: {os_message(error, path)}") from None
    try:
        devices = {name: Device(**fields) for name, fields in json.loads(data).items()}
        if all(min(each.fp32, each.bf16, each.bandwidth) > 0 <= each.overhead for each in devices.values()):
            return devices
    except (ValueError, TypeError, AttributeError):
        pass
    raise DeviceError(f"{path}: expected devices as `composer calibrate` writes them; remove the file")
