"""The forms of files with questions: each turns one entry into a question. Torch-free.

A form is known by name. Its fields are those of the data set as its authors publish it; files are given by
the user.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Entry = Mapping[str, Any]
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class BadEntry(ValueError):
    """An entry is not of its form; says what was expected and what came."""


@dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
        prompt: what the model reads.
        target: the right text after it; the whole text where there is no prompt.
        choices: texts of which `target` is one; empty where it is a question without choices.
        answer: what a generated text has to give, by the pattern of the form.
    """

    prompt: str
    target: str
    choices: tuple[str, ...] = ()
    answer: str = ""


@dataclass(frozen=True)
class Form:
    """How entries of a data set are read.

    Attributes:
        read: makes the question of an entry.
        fields: the keys that an entry has to have.
        pattern: finds the answer in a generated text: the last match, its first group.
        source: the paper of the data set.
    """

    read: Callable[[Entry], Question]
    fields: tuple[str, ...]
    pattern: str
    source: str = ""


_NUMBER = r"(-?\$?\d[\d,]*(?:\.\d+)?)"
_LETTER = r"\b([A-Z])\b"
_LINE = r"^\s*(.*\S)"


def _asked(question: str, target: str, **more: Any) -> Question:
    return Question(f"Question: {question.strip()}\nAnswer:", f" {target.strip()}", **more)


def _chosen(question: str, options: list[str], number: int) -> Question:
    if not 0 <= number < len(options):
        raise BadEntry(f"expected the answer to be one of {len(options)} choices, got number {number}")
    lines = [f"{LETTERS[n]}. {option}" for n, option in enumerate(options)]
    choices = tuple(f" {option}" for option in options)
    prompt = "\n".join([f"Question: {question.strip()}", *lines, "Answer:"])
    return Question(prompt, choices[number], choices, LETTERS[number])


def _letter(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    text = str(value).strip().upper()
    if text.isdigit():
        return int(text)
    if len(text) != 1 or text not in LETTERS:
        raise BadEntry(f"expected a letter or a number as the answer, got {value!r}")
    return LETTERS.index(text)


def _plain(entry: Entry) -> Question:
    if "text" in entry:
        return Question("", _text(entry, "text"))
    prompt = _text(entry, "prompt")
    if "choices" not in entry:
        target = _text(entry, "target")
        return Question(prompt, target, answer=target.strip())
    choices, answer = _texts(entry, "choices"), entry.get("answer")
    if isinstance(answer, str) and answer in choices:
        answer = choices.index(answer)
    if not isinstance(answer, int) or isinstance(answer, bool) or not 0 <= answer < len(choices):
        raise BadEntry(f"expected `answer` to be a choice or the number of one, from 0, got {answer!r}")
    return Question(prompt, choices[answer], tuple(choices), choices[answer].strip())


def _gsm8k(entry: Entry) -> Question:
    solution = _text(entry, "answer")
    _, marked, final = solution.rpartition("####")
    if not marked:
        raise BadEntry("expected an `answer` that ends in #### and a number")
    return _asked(_text(entry, "question"), solution, answer=final.strip())


def _math(entry: Entry) -> Question:
    solution = _text(entry, "solution")
    return _asked(_text(entry, "problem"), solution, answer=_boxed(solution))


def _boxed(text: str) -> str:
    """Return what the last \\boxed{..} of a solution holds, braces within it included."""
    start = text.rfind("\\boxed{")
    if start < 0:
        raise BadEntry("expected a `solution` with \\boxed{..}")
    depth, begin = 0, start + len("\\boxed")
    for place in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if not depth:
            return text[begin + 1 : place]
    raise BadEntry("expected a `solution` whose \\boxed{ is closed")


def _mmlu(entry: Entry) -> Question:
    return _chosen(_text(entry, "question"), _texts(entry, "choices"), _letter(entry["answer"]))


def _aqua(entry: Entry) -> Question:
    options = [re.sub(r"^\s*[A-Z]\s*\)\s*", "", option) for option in _texts(entry, "options")]
    return _chosen(_text(entry, "question"), options, _letter(entry["correct"]))


def _mathqa(entry: Entry) -> Question:
    options = entry["options"]
    text = options if isinstance(options, str) else ", ".join(_texts(entry, "options"))
    parts = re.split(r"(?:^|,)\s*\[?'?\s*[a-e]\s*\)\s*", text)
    texts = [part.strip(" '],") for part in parts[1:]]
    return _chosen(_text(entry, "Problem"), texts, _letter(entry["correct"]))


def _svamp(entry: Entry) -> Question:
    value = entry["Answer"]
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise BadEntry(f"expected a number as `Answer`, got {value!r}")
    number = f"{value:g}" if isinstance(value, int | float) else value.removesuffix(".0")
    body = _text(entry, "Body").strip()
    ends = "" if body.endswith((".", "?", "!")) else "."
    return _asked(f"{body}{ends} {_text(entry, 'Question').strip()}", number, answer=number)


FORMS: Mapping[str, Form] = {
    "plain": Form(_plain, (), _LINE),
    "gsm8k": Form(_gsm8k, ("question", "answer"), rf"####\s*{_NUMBER}", "arXiv 2110.14168"),
    "math": Form(_math, ("problem", "solution"), r"\\boxed\{(.*)\}", "arXiv 2103.03874"),
    "mmlu": Form(_mmlu, ("question", "choices", "answer"), _LETTER, "arXiv 2009.03300"),
    "mathqa": Form(_mathqa, ("Problem", "options", "correct"), _LETTER, "arXiv 1905.13319"),
    "aqua": Form(_aqua, ("question", "options", "correct"), _LETTER, "arXiv 1705.04146"),
    "svamp": Form(_svamp, ("Body", "Question", "Answer"), _NUMBER, "arXiv 2103.07191"),
}
"""The forms by name. `plain` takes {prompt, choices, answer}, {prompt, target} or {text}."""


def same_answer(answer: str, wanted: str) -> bool:
    """Return whether two answers are one: as numbers where both are, else as text without outer marks."""
    one, two = (re.sub(r"[\s$,]", "", text).rstrip(".") for text in (answer, wanted))
    try:
        return float(one) == float(two)
    except ValueError:
        return one == two


def _text(entry: Entry, key: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not value.strip():
        raise BadEntry(f"expected a text as `{key}`, got {value!r}")
    return value


def _texts(entry: Entry, key: str) -> list[str]:
    value = entry.get(key)
    if not isinstance(value, list) or len(value) < 2 or not all(isinstance(each, str) for each in value):
        raise BadEntry(f"expected a list of two texts or more as `{key}`, got {value!r}")
    return value
