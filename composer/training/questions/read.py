"""Reading files of questions: JSON lines or one JSON list, also gzipped. Torch-free."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from composer.data.base.errors import DataError
from composer.settings.errors import os_message
from composer.training.questions.forms import FORMS, BadEntry, Question


def read_questions(path: Path, form: str = "plain", limit: int | None = None) -> list[Question]:
    """Return the questions of a file, the first `limit` of them.

    Raises:
        DataError: the form is unknown, the file cannot be read or is empty, or an entry is not of the form.
    """
    if form not in FORMS:
        raise DataError(f"--form: expected one of {', '.join(FORMS)}, got {form!r}")
    questions = [_question(entry, form, place) for entry, place in islice(_entries(path), limit)]
    if not questions:
        raise DataError(f"{path}: expected questions, got an empty file")
    return questions


def _question(entry: Any, form: str, place: str) -> Question:
    if not isinstance(entry, dict):
        raise DataError(f"{place}: expected an object, got {type(entry).__name__}")
    kind = FORMS[form]
    if missing := [key for key in kind.fields if key not in entry]:
        fits = [name for name, other in FORMS.items() if other.fields and {*other.fields} <= entry.keys()]
        hint = f"; --form {fits[0]} has such fields" if fits else ""
        got = ", ".join(map(str, entry)) or "none"
        raise DataError(f"{place}: expected the field {missing[0]!r} of form {form}, got {got}{hint}")
    try:
        return kind.read(entry)
    except BadEntry as error:
        fits = [name for name, other in FORMS.items() if other.fields and {*other.fields} <= entry.keys()]
        hint = f"; --form {fits[0]} has such fields" if form == "plain" and fits else ""
        raise DataError(f"{place}: {error}{hint}") from None


def _entries(path: Path) -> Iterator[tuple[Any, str]]:
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
        text = content.decode()
    except OSError as error:
        raise DataError(os_message(error, path)) from None
    except (EOFError, zlib.error) as error:
        raise DataError(f"{path}: named .gz, but not a whole gzip file: {error}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start:,}") from None
    if text.lstrip().startswith("["):
        for number, entry in enumerate(_parsed(text, str(path))):
            yield entry, f"{path}: entry {number}"
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            place = f"{path}:{number}"
            yield _parsed(line, place), place


def _parsed(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place}: not JSON: {error}") from None
