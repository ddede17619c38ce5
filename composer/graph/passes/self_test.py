"""Self-tests of kernels on this machine before use, each run once per process."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import fields, replace
from functools import cache
from importlib import import_module
from typing import Any

from blocks.ir.kernel import Kernel, Target
from blocks.ir.operation import ORIGIN, LoopIndex, Operation

_MOST = 200
"""Characters of an error: some name all that torch was built with."""


def self_test(kernel: Kernel, operation: Operation, target: Target) -> str:
    """Return the failure of a kernel on an available target, or "".

    The first time that something is, it is warned of: the kernel is not used from then on.
    """
    if not (kernel.check and target.here):
        return ""
    return _warned(kernel, _sizes(kernel.specialize(operation)), target)


def run_check(kernel: Kernel, operation: Operation | None, target: Target) -> str:
    """Run a kernel's self-test and return its failure, or ""; None lets the kernel choose an operation."""
    module, name = kernel.check.split(":")
    try:
        wrong: str = getattr(import_module(module), name)(operation, target)
    except Exception as error:  # from compiling on, a kernel may fail in any way
        return in_a_line(error)
    return wrong


def in_a_line(error: Exception) -> str:
    """Return the type of an error and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:_MOST]}" if lines else type(error).__name__


def checked_kernels() -> Iterator[tuple[type[Operation], Kernel]]:
    """Yield every kernel that has a self-test, with its operation, of all imported operations.

    A subclass that takes over a kernel for fewer of its operations has no other kernel: it is yielded once.
    """
    for kind in _subclasses(Operation):
        above = {kernel.name for each in kind.__mro__[1:] for kernel in _kernels(each)}
        yield from ((kind, kernel) for kernel in _kernels(kind) if kernel.check and kernel.name not in above)


def _kernels(kind: type) -> tuple[Kernel, ...]:
    kernels = getattr(kind, "kernels", ())
    return kernels if isinstance(kernels, tuple) else getattr(kind, "checked", ())


@cache
def _warned(kernel: Kernel, operation: Operation, target: Target) -> str:
    wrong = run_check(kernel, operation, target)
    if not wrong:
        return ""
    reason = f"its self-test fails: {wrong}"
    warnings.warn(f"{kernel.name} is not used, {reason}; see `composer doctor`", stacklevel=2)
    return reason


def _sizes(operation: Any) -> Operation:
    """Return an operation without its loop indices, on which no kernel depends."""
    places = {field.name: ORIGIN for field in fields(operation) if _is_place(operation, field.name)}
    sizes: Operation = replace(operation, **places)
    return sizes


def _is_place(operation: Operation, name: str) -> bool:
    return isinstance(getattr(operation, name), LoopIndex)


def _subclasses(kind: type[Operation]) -> Iterator[type[Operation]]:
    for each in kind.__subclasses__():
        yield each
        yield from _subclasses(each)
