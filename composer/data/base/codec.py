"""Text as tokens, and tokens as text: for prompts, and for what a model says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from composer.data.base.corpus import SEPARATOR
from composer.data.base.errors import DataError


class Codec(Protocol):
    """How the text of a task is written in tokens.

    Attributes:
        end: the token that ends a document; None where there is none.
    """

    end: int | None

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text.

        Raises:
            DataError: it is none of the task.
        """

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens; what is incomplete at its end is U+FFFD."""

    def tokenizer(self) -> dict[str, Any] | None:
        """Return the same as the content of a `tokenizer.json`; None where tokens are no text."""


class Utf8:
    """A token for each byte, and one that stands between documents."""

    end: int | None = SEPARATOR[0]

    def encode(self, text: str) -> list[int]:
        """Return the bytes of a text."""
        return [*text.encode()]

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of bytes; what is none is U+FFFD."""
        return bytes(each for each in tokens if each < 256).decode(errors="replace")

    def tokenizer(self) -> dict[str, Any]:
        """Return byte-level BPE without merges: its letters stand for bytes."""
        level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [],
            "normalizer": None,
            "pre_tokenizer": level,
            "post_processor": None,
            "decoder": level,
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": False,
                "byte_fallback": False,
                "vocab": {letter: byte for byte, letter in enumerate(_letters())},
                "merges": [],
            },
        }


class Numbers:
    """Tokens as numbers with spaces between."""

    end: int | None = None

    def encode(self, text: str) -> list[int]:
        """Return the numbers of a text."""
        words = text.replace(",", " ").split()
        if not all(word.isascii() and word.isdigit() and len(word) < 10 for word in words):
            raise DataError(f"expected tokens as numbers, such as '3 1 4', got {text!r}")
        return [*map(int, words)]

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the numbers, each after a space."""
        return "".join(f" {each}" for each in tokens)

    def tokenizer(self) -> None:
        """Return none."""


def _letters() -> list[str]:
    """Return the letter of each byte in byte-level BPE: printable ones are their own, others follow."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) if byte in printable else chr(256 + others.index(byte)) for byte in range(256)]
