"""Hints at the spelling of refused values: units, underscores, quotes, yes and no."""

from __future__ import annotations

import math
import re
from typing import Any

from blocks.base.fields import parse_quantity
from composer.language.description.format_spec import value_words
from composer.language.parsing.yaml12 import scalar
from composer.settings.tree import Node

_NUMBERS = ("a whole number", "a number", "a size")
_UNIT = re.compile(r"([0-9]+(?:[.,][0-9]+)?)\s*([A-Za-z]+)")
_SEPARATED = re.compile(r"[0-9]{1,3}(?:[_,' ][0-9]{3})+|[0-9]+(?:_[0-9]+)+")
_POWER = re.compile(r"([0-9]+)\s*(?:\^|\*\*)\s*([+-]?[0-9]{1,2})")
_RATIO = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*/\s*([0-9]+(?:\.[0-9]+)?)")
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]+)")
_COLONS = re.compile(r"([0-9]{1,3}):([0-9]{2})(?::([0-9]{2}))?")
_YES = {"yes", "y", "on", "true", "enabled"}
_NO = {"no", "n", "off", "false", "disabled"}
_COUNTS = {
    **dict.fromkeys(("k", "thousand"), "k"),
    **dict.fromkeys(("m", "mio", "mn", "mm", "million"), "M"),
    **dict.fromkeys(("g", "b", "bn", "billion"), "G"),
    **dict.fromkeys(("t", "tn", "trillion"), "T"),
}
_TIMES = {
    **dict.fromkeys(("ms", "msec", "msecs", "millis", "millisecond", "milliseconds"), "ms"),
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), "s"),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), "min"),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), "h"),
    **dict.fromkeys(("d", "day", "days"), "d"),
}
_CURLY = "\u201c\u201d\u2018\u2019\u201e"
_SECONDS = {"ms": 0.001, "s": 1, "min": 60, "h": 3600, "d": 86400}


def hint_for_written(node: Node, expected: str, has_default: bool = False) -> str:
    """Hint at how to write what `node` seems to mean, where `expected` (in words) was expected."""
    value = node.value
    if value is None and has_default:
        return "leave the key out for its default"
    if expected == "true or false":
        return _truth(value)
    if expected.startswith("a list"):
        return _list(value)
    if expected.startswith("a slice") and isinstance(value, int) and not isinstance(value, bool):
        return f"write '{value}:{value + 1 or ''}'"
    if "{parallel: [..]}" in expected and isinstance(value, list) and value:
        return "blocks that run side by side are {parallel: [..]}; others are entries of the list around it"
    if isinstance(value, str):
        if "#" in value and expected.startswith((*_NUMBERS, "a duration")):
            return "put a space before # to begin a comment"
        if expected.startswith("a duration"):
            return _duration(value)
        if expected.startswith(_NUMBERS):
            return _number(value.strip(), expected)
        if expected.startswith("a mapping") and (match := re.fullmatch(r"([\w.-]+):(\S.*)", value)):
            return f"put a space after the colon: {match[1]}: {match[2]}"
        if value[:1] in _CURLY and value:
            return "use plain quotes, ' or \", or none"
    elif isinstance(value, bool | int | float) and expected.startswith(("text", "letters", "a name", "the")):
        return f'put quotes around it: "{node.text or value_words(value)}"'
    return ""


def _truth(value: Any) -> str:
    word = str(value).lower()
    if word in _YES or value == 1:
        return "write true"
    return "write false" if word in _NO or value == 0 else ""


def _list(value: Any) -> str:
    if isinstance(value, str):
        if value.startswith("-"):
            return "put a space after each -"
        return f"write [{value}]" if re.fullmatch(r"[\w, .-]+", value) else ""
    return "begin it with `- `" if isinstance(value, dict) and value else ""


def _number(text: str, expected: str) -> str:
    """Hint at a number in a spelling that is not YAML's."""
    plain = scalar(text)
    if isinstance(plain, int | float) and not isinstance(plain, bool):
        return f"write it without quotes: {text}"
    if _SEPARATED.fullmatch(text):
        digits = re.sub(r"[^0-9]", "", text)
        short = value_words(int(digits[:40]))
        return f"write {digits}" + (f" or {short}" if short != digits else "")
    if match := _POWER.fullmatch(text):
        return _computed(float(match[1]) ** int(match[2]) if int(match[1]) < 1000 else math.inf)
    if match := _RATIO.fullmatch(text):
        return _computed(float(match[1]) / float(match[2]) if float(match[2]) else math.inf)
    if text.endswith("%") and isinstance(share := scalar(text[:-1].strip()), int | float):
        return _computed(share / 100)
    if match := _UNIT.fullmatch(text):
        return _unit(match[1].replace(",", "."), match[2], expected)
    return ""


def _computed(number: float) -> str:
    if not math.isfinite(number):
        return ""
    return f"write {value_words(int(number) if number.is_integer() else float(f'{number:.6g}'))}"


def _unit(number: str, unit: str, expected: str) -> str:
    """Hint at a unit in the wrong case, or in other words."""
    word, size = unit.lower(), expected.startswith("a size")
    if expected.startswith("a number") and word in _COUNTS:
        return "units are for whole numbers; write the number"
    if size and (match := re.fullmatch(r"([kmgt])(i?)b?", word)):
        letter = match[1].upper()
        if match[2]:
            return f"write {number}{letter}iB"
        return f"write {number}{'k' if letter == 'K' else letter}B or {number}{letter}iB"
    if match := re.fullmatch(r"([kmgt])i", word):
        return f"write {number}{match[1].upper()}i"
    if word not in _COUNTS:
        return "units are k, M, G, T and Ki, Mi, Gi, Ti"
    decimal = _COUNTS[word]
    if not _is_whole(f"{number}{decimal}"):
        return "units are powers of 1000, or of 1024 with an i, and the result has to be whole"
    binary = (
        f" (powers of 1000) or {number}{decimal.upper()}i (of 1024)" if len(word) == 1 and word != "b" else ""
    )
    return f"write {number}{decimal}{binary}"


def _is_whole(quantity: str) -> bool:
    try:
        return bool(parse_quantity(quantity))
    except ValueError:
        return False


def _duration(text: str) -> str:
    """Hint at a duration in other words, or of several parts."""
    if match := _COLONS.fullmatch(text.strip()):
        parts = [int(part) for part in match.groups() if part is not None]
        seconds = float(sum(part * 60**i for i, part in enumerate(reversed(parts))))
    else:
        words = _DURATION.findall(text)
        if not words or _DURATION.sub("", text).strip(" ,"):
            return ""
        units = [_TIMES.get(unit.lower()) for _, unit in words]
        if None in units:
            return "units are ms, s, min, h and d"
        if len(words) == 1:
            return f"write {words[0][0]}{units[0]}"
        seconds = sum(
            float(number) * _SECONDS[unit or "s"] for (number, _), unit in zip(words, units, strict=True)
        )
    for unit in ("h", "min", "s"):
        if (seconds / _SECONDS[unit]).is_integer():
            return f"write {seconds / _SECONDS[unit]:.0f}{unit}"
    return f"write {seconds:g}s"
