"""Prompts and text in the tokens of tokenized data, by the tokenizer that stands beside them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from composer.data.base.codec import Codec, Numbers, Utf8
from composer.data.base.errors import DataError
from composer.data.tokens.manifest import BYTES, Manifest


def codec_of(manifest: Manifest) -> Codec:
    """Return the codec of a folder's tokens: numbers where its tokenizer is unknown.

    Raises:
        DataError: the tokenizer is missing or damaged, or the package for it is not installed.
    """
    made: Codec
    if manifest.tokenizer == BYTES:
        made = Utf8()
    elif not manifest.tokenizer:
        made = Numbers()
    else:
        made = FileTokenizer(Path(manifest.folder, manifest.tokenizer))
    made.end = manifest.end_of_document
    return made


class FileTokenizer:
    """The tokenizer of a `tokenizer.json`; special tokens that stand in text are taken for text."""

    end: int | None = None

    def __init__(self, file: Path) -> None:
        """Raise DataError where it cannot be read."""
        try:
            tokenizers: Any = import_module("tokenizers")
        except ImportError as error:
            command = "pip install 'attention-composer[data]'"
            raise DataError(
                f"{file}: a tokenizer needs the package tokenizers ({error}); install it with: {command}"
            ) from None
        try:
            self._text = file.read_text(encoding="utf-8")
            self._tokenizer: Any = tokenizers.Tokenizer.from_str(self._text)
        except Exception as error:  # tokenizers raises nothing more specific
            raise DataError(f"{file}: not a tokenizer.json: {error}") from None
        self._tokenizer.encode_special_tokens = True

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text, none added."""
        return [*self._tokenizer.encode(text, add_special_tokens=False).ids]

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens."""
        return str(self._tokenizer.decode([*tokens], skip_special_tokens=False))

    def tokenizer(self) -> dict[str, Any]:
        """Return the content of the file."""
        tokenizer: dict[str, Any] = json.loads(self._text)
        return tokenizer
