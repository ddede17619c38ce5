"""Diagnostics of this machine: versions, devices, torch.compile, and the self-test of every kernel."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pkgutil import walk_packages
from typing import NamedTuple

import torch

from blocks.find import all_wiring, block_types
from blocks.ir.kernel import Kernel, Target
from blocks.ir.operation import Operation
from composer.graph.passes.self_test import checked_kernels, run_check
from composer.settings.errors import first_line

DTYPES = ("float32", "bfloat16")
"""The dtypes of products under the values of `train.precision`."""

_PACKAGES = ("attention-composer", "torch", "triton", "lightning", "optuna")


class Finding(NamedTuple):
    """One result; `wrong` if something does not work that should."""

    name: str
    text: str
    wrong: bool = False


def versions() -> Iterator[Finding]:
    """Yield the versions of the packages that matter."""
    yield Finding("python", platform.python_version())
    for package in _PACKAGES:
        try:
            yield Finding(package, version(package))
        except PackageNotFoundError:
            yield Finding(package, "not installed")


def devices() -> Iterator[Finding]:
    """Yield the processor and each GPU."""
    yield Finding("cpu", f"{platform.machine()}, {torch.get_num_threads()} threads")
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(number)
        about = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"
        yield Finding(f"cuda:{number}", about)
    if not torch.cuda.is_available():
        yield Finding("cuda", "none")


def compiler() -> Finding:
    """Return whether torch.compile works, by compiling one line; for information only."""
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        made = torch.compile(_line)(torch.ones(8, device=kind))
    except Exception as error:  # of many kinds, from a missing compiler on
        text = f"does not work here: {first_line(error)}; everything runs without it"
        return Finding("torch.compile", text)
    return Finding("torch.compile", f"works on {kind}" if float(made[0]) == 3 else "gives wrong results")


def kernels() -> Iterator[Finding]:
    """Yield the result of the self-test of each custom kernel for each dtype."""
    import_operations()
    for kind, kernel in sorted(checked_kernels(), key=lambda item: item[1].name):
        if not torch.cuda.is_available():
            yield Finding(kernel.name, f"not here: needs a GPU; {_instead(kind, kernel)} is used")
            continue
        if missing := kernel.missing():
            yield Finding(kernel.name, f"not here: {missing}; {_instead(kind, kernel)} is used")
            continue
        for dtype in DTYPES:
            if kernel.dtypes and dtype not in kernel.dtypes:
                yield Finding(f"{kernel.name} {dtype}", f"has none; {_instead(kind, kernel)} is used")
            else:
                yield _tested(kind, kernel, dtype)


def import_operations() -> None:
    """Import the modules of all blocks and wiring options: a lowering imports only what its spec needs."""
    options = {kind.__module__.rpartition(".")[0] for kind in (*block_types().values(), *all_wiring())}
    for package in {"blocks", *options}:
        folder = import_module(package) if package else None
        for module in walk_packages(getattr(folder, "__path__", ()), f"{package}."):
            try:
                import_module(module.name)
            except ImportError as error:
                if error.name != "triton":  # its kernels are none here
                    raise


def _tested(kind: type[Operation], kernel: Kernel, dtype: str) -> Finding:
    name = f"{kernel.name} {dtype}"
    # without an operation, the self-test uses its own sizes
    wrong = run_check(kernel, None, Target("cuda", dtype, here=True))
    if not wrong:
        return Finding(name, "equals its reference")
    return Finding(name, f"FAILS its self-test: {wrong}; {_instead(kind, kernel)} is used", wrong=True)


def _instead(kind: type[Operation], kernel: Kernel) -> str:
    kernels = kind.kernels
    return kernels[kernels.index(kernel) + 1].name if isinstance(kernels, tuple) else "plain PyTorch"


def _line(x: torch.Tensor) -> torch.Tensor:
    return x + 2
