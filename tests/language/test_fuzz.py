"""Whatever a file holds, loading it gives a spec or a SpecError."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from samples import samples
from spec_texts import SPACE, TINY

from composer.language.load import loads, read_text
from composer.language.space import Space
from composer.settings.errors import SpecError

_PIECES = [
    *(
        "{",
        "}",
        "[",
        "]",
        ":",
        ",",
        "- ",
        "\n",
        "  ",
        "null",
        "~",
        "1e999",
        "-1",
        "0",
        ".nan",
        "${w}",
        "${",
        "$${",
    ),
    *(
        "&a ",
        "*a",
        "<<: *a",
        "!!int ",
        "? ",
        "| ",
        "'",
        '"',
        "#",
        "%YAML 1.1\n",
        "---\n",
        "\t",
        "\x00",
        "\ufeff",
    ),
    *(
        "choice",
        "{choice: [1]}",
        "int",
        "type",
        "recur: 2",
        "step: []",
        "{}",
        "[[]]",
        "true",
        "9" * 70,
        "0o8",
        "😀",
    ),
]

# TINY under the choices of SPACE, in one text
_WHOLE = (
    TINY[: TINY.index("stages:")]
    .replace("name: tiny\n", "")
    .replace("model: {width: 64,", "model: {width: '${w}',")
)
_WHOLE += (
    SPACE[SPACE.index("stages:") :]
    .replace("  baselines: [tiny.yaml]\n", "")
    .replace("train: {lr:", "train: {data: {task: hop}, tokens: 1M, lr:")
)
_WHOLE += "name: small\nlet: {w: {choice: [64, 96]}}\n"


@st.composite
def mutations(draw: st.DrawFn, text: str) -> str:
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 12)))
        piece = draw(
            st.one_of(st.sampled_from(_PIECES), st.text(max_size=4), st.just(text[start : end + 20]))
        )
        text = text[:start] + piece + text[end:]
    return text


def fault(call: Callable[[], object]) -> str | None:
    """Give what the call has to say against its input, None if nothing; any other exception is a failure."""
    try:
        call()
    except SpecError as error:
        return str(error)
    return None


def test_the_undamaged_texts_are_fine() -> None:
    assert fault(lambda: loads(TINY, "x.yaml")) is None
    assert fault(lambda: Space(read_text(_WHOLE, "x.yaml")).example()) is None


@samples(300)
@given(mutations(TINY))
def test_a_damaged_spec_loads_or_says_why(text: str) -> None:
    assert fault(lambda: loads(text, "x.yaml")) != ""


@samples(100)
@given(mutations(_WHOLE))
def test_a_damaged_space_loads_or_says_why(text: str) -> None:
    assert fault(lambda: Space(read_text(text, "x.yaml")).example()) != ""


_VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-9, 9), st.sampled_from([2.5, "seq", "${w}", "4Ki", ""])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["type", "recur", "parallel", "step", "choice", "int"]), inner, max_size=3
        ),
    ),
    max_leaves=6,
)
_KEYS = [
    *("model", "width", "blocks", "seq", "heads", "stages", "0", "step"),
    *("1", "train", "data", "task", "caps", "let", "w", "search"),
]


@samples(200)
@given(st.lists(st.sampled_from(_KEYS), min_size=1, max_size=4), _VALUES)
def test_any_value_anywhere_loads_or_says_why(keys: list[str], value: Any) -> None:
    option = f"{'.'.join(keys)}={json.dumps(value)}"
    assert fault(lambda: loads(TINY, "x.yaml", [option])) != ""
    assert fault(lambda: Space(read_text(_WHOLE, "x.yaml", [option])).example()) != ""
