"""Errors for YAML that cannot be parsed, phrased as what to write instead.

What a parser says is about its own state, and differs between parsers and their versions. Here only the
position that it names is used; the message is made from the text at that position.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from composer.settings.errors import Fault, shown
from composer.settings.tree import Place

DEPTH = 60
"""How deep mappings and lists may be nested."""

_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_BREAK = re.compile(r"\r\n|[\n\r\x85\u2028\u2029]")
_QUOTED = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"\\]|\\.)*\"", re.DOTALL)
_KEY = re.compile(r"\s*(?:- +)*([^\s:#'\"{}\[\]]+):(\S.*)")
_CLOSING = {"[": "]", "{": "}"}
_LONGEST = 40


class Problem(NamedTuple):
    """A problem at a position of a text."""

    offset: int
    expected: str
    got: str
    hint: str = ""


def unprintable(text: str) -> Problem | None:
    """Find the first character that YAML does not allow."""
    match = _UNPRINTABLE.search(text)
    if match is None:
        return None
    return Problem(match.start(), "printable characters", f"U+{ord(match[0]):04X}")


def explain(text: str, at: int, begun: int | None, option: str) -> Problem | None:
    """Describe the problem at offset `at`, where the parser stopped; None if nothing better is known.

    `begun` is the offset at which the parser says that the construct began, if it does. `option` is the path
    that --set gives the text as a value to: there the shell takes quotes away.
    """
    opened = _open_brackets(text[:at])
    if len(opened) > DEPTH:
        return Problem(opened[DEPTH], f"at most {DEPTH} levels", "more")
    here, start = text[at : at + 1], text[begun : begun + 1] if begun is not None else ""
    line = _line(text, at)
    if here == "\t" or ("\t" in line[: _column(text, at)] and not line[: _column(text, at)].strip()):
        return Problem(at, "spaces for indentation", "a tab", "replace tabs by spaces")
    if line.startswith("%"):
        return _to_quote(text, _start(text, at), option)
    if "${" in line or "${" in _line(text, max(text.rfind("\n", 0, at), 0)):
        return Problem(at, "valid YAML", shown(line.strip()), 'inside {} or [] put quotes around "${..}"')
    if begun is not None and start in ("*", "&") and at == begun + 1:
        return _to_quote(text, begun, option)
    if here in ("@", "`", "%") or (begun == at and here in ("|", ">", "!", ",")):
        return _to_quote(text, at, option)
    if start in ("|", ">") and begun is not None:
        return _to_quote(text, begun, option)
    if start and start in "'\"":
        return _quotes(text, at, begun or 0)
    if start in ("[", "{") or here in ("]", "}"):
        return _brackets(text, at, opened, begun)
    if text[at:].strip() == "" and opened:
        return _unclosed(text, opened[-1])
    return _lines(text, at, begun)


def _open_brackets(text: str) -> list[int]:
    """Return the offsets of brackets still open at the end of `text`."""
    opened: list[int] = []
    at, fresh = 0, True
    while at < len(text):
        char = text[at]
        if fresh and char in "'\"":
            quoted = _QUOTED.match(text, at)
            at, fresh = (quoted.end() if quoted else len(text)), False
            continue
        if char == "#" and (at == 0 or text[at - 1].isspace()):
            end = _BREAK.search(text, at)
            at = end.start() if end else len(text)
            continue
        if char in "[{" and (fresh or opened):
            opened.append(at)
        elif char in "]}" and opened:
            opened.pop()
        fresh = char in "[{,:-?" or (char.isspace() and fresh) or char in "\n\r"
        at += 1
    return opened


def _to_quote(text: str, at: int, option: str) -> Problem:
    """Refuse text that begins with a character that YAML keeps for itself."""
    rest = _line(text, at)[_column(text, at) :]
    inside = bool(_open_brackets(text[:at]))
    word = re.split(r"\s+#|[,\]}]" if inside else r"\s+#", rest)[0].strip()
    quoted = "'" + word.replace("'", "''") + "'"
    expected = f"quotes around text that begins with {word[:1]}"
    hint = f'write "{option}={quoted}"' if option else f"write {quoted}"
    return Problem(at, expected, word[:_LONGEST], hint)


def _quotes(text: str, at: int, begun: int) -> Problem:
    quote = text[begun]
    if text[at:].strip():
        hint = r"write \\ for a backslash, or put single quotes around the text"
        return Problem(at, "an escape that YAML knows", "a backslash before another character", hint)
    hint = f"opened on line {_number(text, begun)}"
    return Problem(begun, f"a closing {quote}", "the end of the text", hint)


def _brackets(text: str, at: int, opened: list[int], begun: int | None) -> Problem:
    here = text[at : at + 1]
    if here in ("]", "}") and not opened:
        return Problem(at, f"a bracket that {here} closes", "none", "remove it, or open one before")
    first = opened[-1] if opened else begun or 0
    closing = _CLOSING.get(text[first], "]")
    if here in ("]", "}") and here != closing:
        place = f"opened on line {_number(text, first)}, column {_column(text, first) + 1}"
        return Problem(at, f"{closing} to close {text[first]}", here, place)
    if _number(text, first) != _number(text, at) or not text[at:].strip():
        return _unclosed(text, first)
    hint = "a comma is missing" if here == ":" else "put quotes around text with such characters"
    return Problem(at, f"a comma or {closing}", shown(text[at : at + _LONGEST].split("\n")[0]), hint)


def _unclosed(text: str, first: int) -> Problem:
    closing = _CLOSING.get(text[first], "]")
    return Problem(first, f"a closing {closing}", "none", f"opened on line {_number(text, first)}")


def _lines(text: str, at: int, begun: int | None) -> Problem | None:
    """Explain what is wrong between lines: colons, indentation, lists among mappings."""
    line, column = _line(text, at), _column(text, at)
    above = _above(text, at)
    if above.startswith("...") and not column:
        return Problem(at, "one document", "a second one", "remove the line ...")
    if begun is not None and text[begun] != "-" and _number(text, begun) < _number(text, at):
        word = _line(text, begun).strip()
        if ":" not in word:
            return Problem(begun, "`key: value`", shown(word), "there is no colon")
    if text[at : at + 1] == ":":
        if re.search(r":\s", line[:column]):
            hint = "put quotes around text with a colon and a space"
            return Problem(at, "one `key: value`", shown(line.strip()), hint)
        if match := _KEY.fullmatch(above):
            return _glued(text, at, match)
        if above.strip() and ":" not in above:
            return Problem(_start_above(text, at), "`key: value`", shown(above.strip()), "there is no colon")
        return Problem(at, "the indentation of the line above", "more", "that line has a value already")
    if line[:column].rstrip()[-1:] in ("'", '"'):
        quote = line[:column].rstrip()[-1]
        hint = "write '' for a quote inside single quotes" if quote == "'" else r"write \" for a quote inside"
        return Problem(at, "nothing after a closing quote", shown(line[column:].strip()), hint)
    if not line[:column].strip():
        if line[column:].startswith("- ") or line[column:] == "-":
            return Problem(at, "`key: value`", "an item of a list", "a mapping has no list items")
        if above.lstrip().startswith("- ") and len(above) - len(above.lstrip()) == column:
            return Problem(at, "an item of a list, `- value`", "a key", "a list has no keys")
        if match := _KEY.fullmatch(above):
            return _glued(text, at, match)
        got = f"{column} space{'' if column == 1 else 's'}"
        return Problem(at, "the indentation of a line above", got)
    return None


def _glued(text: str, at: int, above: re.Match[str]) -> Problem:
    """Return the problem of a line above an offset whose colon no space follows."""
    hint = f"put a space after the colon: {above[1]}: {above[2]}"
    return Problem(_start_above(text, at), "`key: value`", shown(above[0].strip()), hint)


def _line(text: str, at: int) -> str:
    end = _BREAK.search(text, at)
    return text[_start(text, at) : end.start() if end else len(text)]


def _start(text: str, at: int) -> int:
    return max(text.rfind(mark, 0, at) for mark in "\n\r\x85\u2028\u2029") + 1


def _column(text: str, at: int) -> int:
    return at - _start(text, at)


def _number(text: str, at: int) -> int:
    return len(_BREAK.findall(text[:at])) + 1


def _start_above(text: str, at: int) -> int:
    """Return the offset of the last line above that is not blank or a comment."""
    start = _start(text, at)
    while start > 0:
        start = _start(text, start - 1)
        line = _line(text, start)
        if line.strip() and not line.lstrip().startswith("#"):
            return start + len(line) - len(line.lstrip())
    return 0


def _above(text: str, at: int) -> str:
    return _line(text, _start_above(text, at)) if _start(text, at) else ""


def fault(problem: Problem, text: str, file: str) -> Fault:
    """Return the fault for a problem, at its line and column."""
    at = problem.offset
    place = Place(file, _number(text, at), _column(text, at) + 1)
    return Fault(*place, "", problem.expected, problem.got, problem.hint)
