"""Launches as a table: the number, bytes, FLOPs and modelled time of each kernel."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby

from composer.costs.base.units import bytes_text, count_text, seconds_text
from composer.costs.time.devices import NAMED, Device
from composer.launches.launches import Launch
from composer.launches.machine_code import MachineCode

LEAST = 2e-6
"""Minimum time of a launch, in seconds."""

_SHARES = {
    **dict.fromkeys(("grouped_mm", "expert_attention.add_products", "expert_attention.gate_up"), 0.54),
    "scaled_dot_product_attention": 0.48,
}
"""Assumed efficiency of grouped products and attention relative to large matrix products."""

Row = tuple[str, ...]

HEAD: Row = ("", "launches", "bytes", "FLOPs", "modelled")


def modelled(launch: Launch, device: Device) -> float:
    """Return the time in seconds: the largest of bytes / bandwidth, FLOPs / peak and `LEAST`."""
    share = next((share for name, share in _SHARES.items() if launch.kernel.startswith(name)), 1.0)
    rate = share * (device.fp32 if launch.fp32 else device.bf16)
    return max(launch.bytes / device.bandwidth, launch.flops / rate, LEAST)


def by_contestant(launches_of: Mapping[str, Sequence[Launch]], device: Device) -> Iterator[Row]:
    """Yield a row for each pass of each contestant, and one for the whole step."""
    yield HEAD
    for name, launches in launches_of.items():
        for phase, each in groupby(launches, lambda launch: launch.phase):
            yield _row(f"{name}, {phase}", [*each], device)
        yield _row(f"{name}, step", launches, device)


def by_kernel(launches: Iterable[Launch], device: Device) -> Iterator[Row]:
    """Yield a row for each kernel of each pass, slowest first."""
    yield HEAD
    for phase, of_phase in groupby(launches, lambda launch: launch.phase):
        ordered = sorted(of_phase, key=lambda launch: launch.kernel)
        kernels = [[*each] for _, each in groupby(ordered, lambda launch: launch.kernel)]
        kernels.sort(key=lambda each: -sum(modelled(launch, device) for launch in each))
        yield from (_row(f"{phase}: {each[0].kernel}", each, device) for each in kernels)


def by_code(codes: Iterable[MachineCode]) -> Iterator[Row]:
    """Yield a row for each compiled kernel, in order of first launch."""
    yield (
        *("", "registers", "spilled", "warps", "load", "in flight", "instructions", "issued in"),
        *(f"bytes at {NAMED[name].bandwidth / 1e12:.1f} TB/s" for name in ("h100", "h200")),
    )
    for code in codes:
        yield (
            f"{code.name} ({code.case})" if code.case else code.name,
            str(code.registers),
            f"{code.spilled} B",
            f"{code.warps} of 64",
            f"{code.widest} B",
            bytes_text(code.in_flight),
            str(code.instructions),
            seconds_text(code.issue),
            *(seconds_text(code.launch.bytes / NAMED[name].bandwidth) for name in ("h100", "h200")),
        )


def _row(name: str, launches: Sequence[Launch], device: Device) -> Row:
    size, flops = (sum(getattr(launch, what) for launch in launches) for what in ("bytes", "flops"))
    time = sum(modelled(launch, device) for launch in launches)
    return (
        name,
        str(len(launches)),
        f"{count_text(size)}B",
        count_text(flops) if flops else "",
        seconds_text(time),
    )
