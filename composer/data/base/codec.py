"""Text as tokens, and tokens as text: for prompts, and for what a model says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

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


class Utf8:
    """A token for each byte, and one that stands between documents."""

    end: int | None = SEPARATOR[0]

    def encode(self, text: str) -> list[int]:
        """Return the bytes of a text."""
        return [*text.encode()]

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of bytes; what is none is U+FFFD."""
        return bytes(each for each in tokens if each < 256).decode(errors="replace")


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
