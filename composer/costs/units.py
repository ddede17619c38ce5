"""Numbers as people read them."""

from __future__ import annotations


def amount(name: str, value: float) -> str:
    """Return a measure with its unit: bytes where its name says so, else counts."""
    return bytes_text(value) if "memory" in name or "bytes" in name else count_text(value)


def count_text(value: float) -> str:
    """Return 1234567 as `1.23M`."""
    return _scaled(value, 1000, ("", "k", "M", "G", "T", "P", "E"))


def bytes_text(value: float) -> str:
    """Return 1536 as `1.5 KiB`."""
    return _scaled(value, 1024, (" B", " KiB", " MiB", " GiB", " TiB", " PiB"))


def _scaled(value: float, base: int, units: tuple[str, ...]) -> str:
    power = 0
    while abs(value) >= base and power < len(units) - 1:
        value, power = value / base, power + 1
    # four digits before the unit only where three would lose the whole part
    return f"{value:.3g}{units[power]}" if abs(value) < 999.5 else f"{value:.0f}{units[power]}"
