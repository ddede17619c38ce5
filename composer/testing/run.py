"""Running a suite: every check on every example."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TypeAlias, TypeVar

from blocks.base.config import BlockConfig
from composer.testing.find import UnknownName, find_block, find_options

Example = TypeVar("Example")
Suite: TypeAlias = Callable[[str, Sequence[str]], Iterator["Finding"]]
"""What the entry points of `composer.conformance` name: from a name and settings to findings."""


@dataclass(frozen=True)
class Finding:
    """One check of one example; `fault` says what does not hold, or is ""."""

    example: str
    check: str
    fault: str


def conformance(config: type[BlockConfig]) -> Iterator[Finding]:
    """Yield what each check finds with each example of a block."""
    from composer.testing.blocks import CHECKS
    from composer.testing.examples import examples

    return examined(examples(config), CHECKS)


def block_conformance(name: str, settings: Sequence[str] = ()) -> Iterator[Finding]:
    """Yield what each check finds with a block, named as for `find_block`, in all of its options.

    Raises:
        UnknownName: there is no such block, or settings are given.
    """
    if settings:
        raise UnknownName("--set is for tasks: a block is checked in all of its options")
    return conformance(find_block(name))


def wiring_conformance(name: str, settings: Sequence[str] = ()) -> Iterator[Finding]:
    """Yield what each check finds with wiring options, named as for `find_options`, in each of their fields.

    Raises:
        UnknownName: there is no such option, or settings are given.
    """
    if settings:
        raise UnknownName("--set is for tasks: an option is checked in each of its fields")
    options = find_options(name)
    # the models of specs are made of the options that are known when they are imported
    from composer.testing.wiring import CHECKS, examples

    return chain.from_iterable(examined(examples(option), CHECKS) for option in options)


def examined(
    these: Mapping[str, Example], checks: Mapping[str, Callable[[Example], None]]
) -> Iterator[Finding]:
    """Yield what each check finds with each example."""
    for name, example in these.items():
        for check, holds in checks.items():
            yield Finding(name, check, fault(holds, example))


def fault(check: Callable[[Example], None], example: Example) -> str:
    """Return what does not hold in a line, or "": an error of the example's own is a fault as well."""
    try:
        check(example)
    except AssertionError as error:
        return _line(error) or "does not hold"
    except Exception as error:
        return f"{type(error).__name__}: {_line(error)}"
    return ""


def _line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else ""
