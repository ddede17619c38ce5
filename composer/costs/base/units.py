"""Human-readable numbers."""

from __future__ import annotations

from composer.measures.registry import MEASURES

_TIMES = (("s", 1.0), ("ms", 1e-3), ("us", 1e-6))


def amount(name: str, value: float) -> str:
    """Return the value of a measure with its unit; for an unknown name, as a count."""
    unit = MEASURES[name].unit if name in MEASURES else "count"
    return {"count": count_text, "bytes": bytes_text, "seconds": seconds_text}[unit](value)


def seconds_text(value: float) -> str:
    """Return 0.00152 as `1.52 ms`."""
    unit, size = next((unit for unit in _TIMES if value >= unit[1]), _TIMES[-1])
    return f"{value / size:.3g} {unit}"


def duration(seconds: float) -> str:
    """Format a time: 40s, 12min, 3.4h."""
    if seconds < 90:
        return f"{seconds:.0f}s"
    return f"{seconds / 60:.0f}min" if seconds < 5400 else f"{seconds / 3600:.1f}h"


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
