"""YAML's traps are told in terms of what to write, in the same words whichever parser reads them."""

from __future__ import annotations

import pytest
import yaml

from composer.language.parsing import yaml12
from composer.language.parsing.merge import override
from composer.language.parsing.yaml12 import read
from composer.settings.errors import SpecError

LOADERS = [yaml.BaseLoader, *([yaml.CBaseLoader] if hasattr(yaml, "CBaseLoader") else [])]

TRAPS = [
    ("glob: *.md", "1:7  expected quotes around text that begins with *, got *.md (write '*.md')"),
    ("glob: [a, *.md, b]", "1:11  expected quotes around text that begins with *, got *.md (write '*.md')"),
    ("glob: *", "1:7  expected quotes around text that begins with *, got * (write '*')"),
    ("name: &", "1:7  expected quotes around text that begins with &, got & (write '&')"),
    ("name: @it's # so", "1:7  expected quotes around text that begins with @, got @it's (write '@it''s')"),
    ("name: `x`", "1:7  expected quotes around text that begins with `, got `x` (write '`x`')"),
    ("name: %x", "1:7  expected quotes around text that begins with %, got %x (write '%x')"),
    ("a: 1\n%b: 3", "2:1  expected quotes around text that begins with %, got %b: 3"),
    ("name: |x", "1:7  expected quotes around text that begins with |, got |x (write '|x')"),
    ("a: , b", "1:4  expected quotes around text that begins with ,, got , b (write ', b')"),
    (
        "a: *b",
        "1:4  expected an alias of an anchor above, got *b, which is undefined (put quotes around text that "
        "begins with *: '*b')",
    ),
    ("model:\n\twidth: 3", "2:1  expected spaces for indentation, got a tab (replace tabs by spaces)"),
    ("m:\n  - b\n\t- c", "3:1  expected spaces for indentation, got a tab (replace tabs by spaces)"),
    (
        "model:\n  width:64\n  vocab: 3",
        "2:3  expected `key: value`, got 'width:64' (put a space after the colon: width: 64)",
    ),
    ("a: 1\nhello\nb: 2", "2:1  expected `key: value`, got 'hello' (there is no colon)"),
    ("hello\na: 1", "1:1  expected `key: value`, got 'hello' (there is no colon)"),
    ("a: b: c", "1:5  expected one `key: value`, got 'a: b: c' (put quotes around text with a colon and"),
    ("a: 1\n  b: 2", "2:4  expected the indentation of the line above, got more (that line has a value"),
    ("a:\n  b: 1\n c: 2", "3:2  expected the indentation of a line above, got 1 space"),
    ("a:\n  - b\n  c: 3", "3:3  expected an item of a list, `- value`, got a key (a list has no keys)"),
    ("a:\n  c: 3\n  - b", "3:3  expected `key: value`, got an item of a list (a mapping has no list items)"),
    ("name: 'abc\nb: 3", "1:7  expected a closing ', got the end of the text (opened on line 1)"),
    ('a: 1\nb: "c', '2:4  expected a closing ", got the end of the text (opened on line 2)'),
    ("a: 'it's'", "1:8  expected nothing after a closing quote, got \"s'\" (write '' for a quote inside"),
    ("a: [1, 2\nb: 3", "1:4  expected a closing ], got none (opened on line 1)"),
    ("a: {b: 1\nc: 3", "1:4  expected a closing }, got none (opened on line 1)"),
    ("a: 1\r\nb: [\r\n", "2:4  expected a closing ], got none (opened on line 2)"),
    ("a: [1, 2]]", "1:10  expected a bracket that ] closes, got none (remove it, or open one before)"),
    ("a: [1, 2}", "1:9  expected ] to close [, got } (opened on line 1, column 4)"),
    ("a: {b: 1 c: 2}", "1:11  expected a comma or }, got ': 2}' (a comma is missing)"),
    ("a: {b: ${w}}", "1:9  expected valid YAML, got 'a: {b: ${w}}' (inside {} or [] put quotes around"),
    ("a: 1\n---\nb: 2", "2:1  expected one document, got a second one (remove the line ---)"),
    ("a: 1\n...\nb: 2", "3:1  expected one document, got a second one (remove the line ...)"),
    ("é: 1\nb: \x07", "2:4  expected printable characters, got U+0007"),
    ("a: \ud800", "1:4  expected printable characters, got U+D800"),
    ("a: " + "[" * 3000, "1:64  expected at most 60 levels, got more"),
    ("a: [" + "'[', " * 99, "1:4  expected a closing ], got none (opened on line 1)"),
    ("a: # " + "[" * 99 + "\n  {", "2:3  expected a closing }, got none (opened on line 2)"),
]


@pytest.mark.parametrize("loader", LOADERS, ids=lambda loader: loader.__name__)
@pytest.mark.parametrize(("text", "message"), TRAPS, ids=[message for _, message in TRAPS])
def test_a_trap_is_told_in_terms_of_what_to_write(
    text: str, message: str, loader: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(yaml12, "_Loader", loader)
    with pytest.raises(SpecError) as caught:
        read(text, "x.yaml")
    assert str(caught.value).startswith(f"x.yaml:{message}")


@pytest.mark.parametrize("word", ["*.md", "@x", "`x`", "%x", "a: b", "[x", "'x"])
def test_what_a_hint_says_to_write_is_read_as_that_text(word: str) -> None:
    quoted = "'" + word.replace("'", "''") + "'"
    assert read(f"a: {quoted}", "x").plain == {"a": word}


def test_an_option_is_told_that_the_shell_takes_quotes() -> None:
    with pytest.raises(SpecError) as caught:
        override(read("a: 1", "x"), "train.data.glob=*.md")
    assert str(caught.value) == (
        "--set train.data.glob=*.md  train.data.glob: expected quotes around text that begins with *, got "
        "*.md (write \"train.data.glob='*.md'\")"
    )
    assert override(read("a: 1", "x"), "train.data.glob='*.md'").plain["train"] == {"data": {"glob": "*.md"}}
