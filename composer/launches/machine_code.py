"""Machine code of Triton kernels for a Hopper GPU, compiled without one: registers, spills, instructions."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

from composer.launches.fake_gpu import CAPABILITY
from composer.launches.launches import TritonLaunch
from composer.settings.errors import UserError

_SECONDS = 60
_WARP = 32
_REGISTERS, _WARPS, _PROGRAMS, _SHARED = 65536, 64, 32, 227 * 1024
"""Limits of one multiprocessor (SM) of a Hopper: registers, warps, programs, bytes of shared memory."""

ISSUED = 132 * 4 * 1.755e9
"""Warp instructions per second of an H100 SXM: one per cycle for each of 132 x 4 schedulers."""


def _slots(given: Mapping[str, Any]) -> int:
    """Return the iterations over slots: two at once unless it writes gradients or heads share none."""
    one = given.get("PUSH", False) or ("PUSH" in given and given["GROUP"] == 1)
    reads: int = given["reads"]
    return reads if one else -(-reads // 2)


def _rows(given: Mapping[str, Any]) -> int:
    """Return the iterations over an expert's rows of one step, if all experts have equally many."""
    turns: float = given["order_0"].numel() / len(given["total"]) / given["BLOCK_ROWS"]
    return ceil(turns)


def _tiles(given: Mapping[str, Any]) -> int:
    """Return the iterations over tiles of a program with one value."""
    tiles: float = given["tokens"] / given["BLOCK_TOKENS"] / given["programs"]
    return ceil(tiles)


def _blocks(given: Mapping[str, Any]) -> int:
    """Return the iterations over a row of residual streams."""
    turns: float = given["width"] / given["BLOCK"]
    return ceil(turns)


def _values(given: Mapping[str, Any]) -> int:
    """Return the iterations over slots of a program that iterates over tiles, outside of slots too."""
    return _tiles(given) * int(given["reads"] + 1)


_TURNS: Mapping[str, Callable[[Mapping[str, Any]], int]] = {
    "depth_attention.forward": _slots,
    "depth_attention.backward": _slots,
    "depth_attention.pull": lambda given: given["rows"],
    "expert_attention.add_products": _rows,
    **dict.fromkeys(
        ("mix_kernels.attend", "mix_kernels.rectify", "mix_kernels.weigh", "mix_kernels.weigh_backward"),
        lambda given: given["reads"],
    ),
    "mix_kernels.attend_backward": _values,
    "mix_kernels.rectify_backward": _tiles,
    "expert_attention.gate_up": lambda given: ceil(given["WIDTH"] / given["BLOCK_WIDTH"]),
    "streams.map_and_read_backward": lambda given: given["count"],
    "streams.maps": lambda given: given["ITERATIONS"],
    "streams.maps_backward": lambda given: given["ITERATIONS"],
    **dict.fromkeys(("streams.read_backward", "streams.write_backward"), _blocks),
}
"""Iterations of each innermost loop of a kernel; other loops count as one iteration."""


class _Instruction(NamedTuple):
    address: int
    text: str


@dataclass(frozen=True)
class MachineCode:
    """The compiled code of one kernel for the arguments of one launch.

    Attributes:
        registers: registers per thread.
        spilled: bytes spilled per thread.
        warps: resident warps per SM, at most 64 (occupancy).
        widest: bytes of a thread's widest load from global memory.
        in_flight: bytes that an SM's warps load per iteration of the longest loop, or without loops in all.
        instructions: instructions that one warp runs, with the iterations of this launch.
        issue: lower bound of the launch's time from its instructions, in seconds.
        case: where it is launched first, or "".
    """

    name: str
    registers: int
    spilled: int
    warps: int
    widest: int
    in_flight: int
    instructions: int
    issue: float
    launch: TritonLaunch
    case: str = ""


class Compiled:
    """Compiles each launched Triton kernel for a Hopper, once per specialization of its arguments."""

    def __init__(self) -> None:
        """Raise UserError if kernels are interpreted, since Triton then compiles nothing."""
        from triton import knobs

        if knobs.runtime.interpret:
            raise UserError(
                "expected TRITON_INTERPRET not to be set: kernels that are interpreted have no code"
            )
        self.codes: dict[Any, MachineCode] = {}
        self.case = ""

    def __call__(self, launch: TritonLaunch) -> None:
        """Compile the kernel of a launch; of several launches of the same code keep the largest."""
        with _hopper():
            made = launch.compile()
        known = self.codes.get(made.hash)
        if known is None or known.launch.bytes < launch.bytes:
            case = self.case if known is None else known.case
            self.codes[made.hash] = replace(_read(made, launch), case=case)


@contextmanager
def _hopper() -> Iterator[None]:
    """Make Triton compile for a Hopper until the context ends."""
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver

    class Driver:
        def get_current_device(self) -> int:
            return 0

        def get_current_stream(self, device: int) -> int:
            return 0

        def get_current_target(self) -> GPUTarget:
            return GPUTarget("cuda", CAPABILITY, _WARP)

    before = driver._active
    driver.set_active(Driver())
    try:
        yield
    finally:
        driver._active = before


def _read(made: Any, launch: TritonLaunch) -> MachineCode:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        usage = _tool("cuobjdump", "-res-usage", file.name)
        code = [*_instructions(_tool("nvdisasm", "-c", file.name))]
    registers, stack = (int(n) for n in re.search(r"REG:(\d+) STACK:(\d+)", usage).groups())  # type: ignore[union-attr]
    warps, shared = made.metadata.num_warps, made.metadata.shared
    loops = [code[first : last + 1] for first, last in _loops(code)]
    turns = _TURNS[launch.name](launch.given) if launch.name in _TURNS else 1
    innermost = [loop for loop in loops if not any(_within(other, loop) for other in loops)]
    run = len(code) + (turns - 1) * sum(map(len, innermost))
    alive = _alive(registers, warps, shared)
    loads = max(innermost, key=len, default=code)
    return MachineCode(
        launch.name,
        registers,
        stack,
        alive,
        max(map(_loaded, code)),
        alive * _WARP * sum(map(_loaded, loads)),
        run,
        run * warps * launch.programs / ISSUED,
        launch,
    )


def _tool(name: str, *arguments: str) -> str:
    import triton

    path = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    done = subprocess.run([path, *arguments], capture_output=True, text=True, check=True, timeout=_SECONDS)
    return done.stdout + done.stderr


def _instructions(text: str) -> Iterator[_Instruction]:
    """Yield the instructions of a disassembly, with labels of jumps replaced by addresses."""
    labels: dict[str, int] = {}
    waiting: list[str] = []
    lines: list[tuple[int, str]] = []
    for line in text.splitlines():
        if label := re.match(r"^\s*(\.L_\S+):", line):
            waiting.append(label.group(1))
        elif place := re.search(r"/\*([0-9a-f]{4,})\*/\s+(.*?);", line):
            address = int(place.group(1), 16)
            labels |= dict.fromkeys(waiting, address)
            waiting = []
            lines.append((address, place.group(2)))
    for address, code in lines:
        target = re.search(r"\.L_\w+", code)
        known = target and labels.get(target.group(0))
        yield _Instruction(address, code if known is None else f"{code} ->{known}")


def _loops(code: Sequence[_Instruction]) -> Iterator[tuple[int, int]]:
    """Yield the first and last instruction of each loop, found by its backward jump."""
    at = {each.address: number for number, each in enumerate(code)}
    for number, each in enumerate(code):
        jump = re.search(r"\bBRA\b.*->(\d+)", each.text)
        # a kernel ends with a jump to itself
        if jump and at.get(int(jump.group(1)), number) < number:
            yield at[int(jump.group(1))], number


def _within(inner: Sequence[_Instruction], outer: Sequence[_Instruction]) -> bool:
    return (
        inner is not outer and outer[0].address <= inner[0].address <= inner[-1].address <= outer[-1].address
    )


def _loaded(instruction: _Instruction) -> int:
    """Return the bytes that an instruction loads from global memory per thread, also to shared memory."""
    load = re.search(r"\bLDG(?:STS)?\.E(?:\.\w+)*", instruction.text)
    if not load:
        return 0
    parts = load.group(0).split(".")
    return next((size for name, size in _SIZES.items() if name in parts), 4)


_SIZES = {"128": 16, "64": 8, "U16": 2, "S16": 2, "U8": 1, "S8": 1}


def _alive(registers: int, warps: int, shared: int) -> int:
    """Return the number of resident warps of a kernel per SM."""
    of_warp = -(-registers * _WARP // 256) * 256
    programs = min(_REGISTERS // of_warp // 4 * 4 // warps, _WARPS // warps, _PROGRAMS)
    if shared:
        programs = min(programs, _SHARED // (shared + 1024))
    return programs * warps
