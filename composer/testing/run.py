"""The whole suite over all examples of a block."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from blocks.base.config import BlockConfig
from composer.testing.blocks import CHECKS
from composer.testing.examples import Plain, examples


@dataclass(frozen=True)
class Finding:
    """One check of one example; `fault` says what does not hold, or is ""."""

    example: str
    check: str
    fault: str


def conformance(config: type[BlockConfig]) -> Iterator[Finding]:
    """Yield what each check finds with each example of a block."""
    for name, plain in examples(config).items():
        for check in CHECKS:
            yield Finding(name, check, fault(check, plain))


def fault(check: str, plain: Plain) -> str:
    """Return what does not hold in a line, or "": an error of the block's own is a fault as well."""
    try:
        CHECKS[check](plain)
    except AssertionError as error:
        return _line(error) or "does not hold"
    except Exception as error:
        return f"{type(error).__name__}: {_line(error)}"
    return ""


def _line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else ""
