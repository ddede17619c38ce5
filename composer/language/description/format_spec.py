"""Formats parts of a spec: stages, entries of a step, values."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from composer.language.schema.levels import Sublayer
from composer.language.schema.recur import Recur
from composer.language.schema.spec import Stage, used
from composer.language.schema.steps import trained_numbers

_DECIMAL = ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k"))
_BINARY = ((2**40, "Ti"), (2**30, "Gi"), (2**20, "Mi"), (2**10, "Ki"))
_WITH_UNIT = 10_000
_SCIENTIFIC = 0.02


def stage_words(stage: Stage) -> str:
    """Describe a stage: `8 steps of [seq, depth, expert] with shared weights`."""
    mix = ", ".join(map(entry_words, stage.step))
    return f"{trips_words(stage)} of [{mix}]" + (" with shared weights" if stage.recurs else "")


def entry_words(entry: Sublayer | Stage) -> str:
    """Describe an entry of a step."""
    match entry:
        case Stage():
            return f"({stage_words(entry)})"
        case _:
            return " | ".join(used(entry))


def trips_words(stage: Stage) -> str:
    """Describe the steps of a stage: `8 steps`, `1 layer`, `8 steps (1 to 32 in training)`."""
    varies = f" ({trained})" if (trained := trained_words(stage)) else ""
    return f"{stage.trips} {'step' if stage.tied else 'layer'}{'' if stage.trips == 1 else 's'}{varies}"


def trained_words(stage: Stage) -> str:
    """Describe the steps of a stage in training, if stated: `1 to 32 per sequence in training`."""
    numbers = trained_numbers(stage)
    apart = isinstance(stage.recur, Recur) and stage.recur.per == "sequence"
    where = " per sequence in training" if apart else " in training"
    return f"{min(numbers)} to {max(numbers)}{where}" if numbers else ""


def weights_words(stage: Stage) -> str:
    """Describe how its steps share weights."""
    if stage.tied:
        return "with shared weights" if stage.recurs else "of recur"
    return f"with weights of {'its' if stage.trips == 1 else 'their'} own"


def value_words(value: Any) -> str:
    """Format a value as in a spec, short but exact: `3M`, `1e-2`, `true`, `none`."""
    match value:
        case None:
            return "none"
        case bool():
            return str(value).lower()
        case int():
            return _whole(value)
        case float():
            return _number(value)
        case list() | tuple():
            return f"[{', '.join(map(value_words, value))}]"
        case dict():
            return f"{{{', '.join(f'{key}: {value_words(item)}' for key, item in value.items())}}}"
        case _:
            return str(value)


def _whole(value: int) -> str:
    """Format a count exactly, with the unit that makes it shortest."""
    spellings = [str(value)]
    if abs(value) >= _WITH_UNIT:
        for size, unit in (*_DECIMAL, *_BINARY):
            if abs(value) >= size and value * 1000 % size == 0:
                spellings.append(f"{Decimal(value) / size:f}{unit}")
    return min(spellings, key=len)


def _number(value: float) -> str:
    if 0 < abs(value) < _SCIENTIFIC:
        sign, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
        assert isinstance(exponent, int)
        head, rest = digits[0], "".join(map(str, digits[1:]))
        return f"{'-' * sign}{head}{'.' * bool(rest)}{rest}e{exponent + len(digits) - 1}"
    return repr(value)
