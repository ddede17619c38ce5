"""From text to tokens: bytes, or a tokenizer.json."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from composer.data.base.errors import DataError
from composer.data.building.base.extras import needed
from composer.data.building.base.source import Document, Options
from composer.data.tokens.manifest import BYTES, BYTES_SEPARATOR, BYTES_VOCAB
from composer.settings.errors import os_message

_BATCH_LETTERS = 1 << 20
USUAL_ENDS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|im_end|>", "[SEP]")
"""The tokens that end documents in published tokenizers; the first that a tokenizer has is taken."""


class Encoded(NamedTuple):
    """One document as tokens, its end among them.

    Attributes:
        tokens: [tokens].
        scored_from: the first token that is scored.
        scored_bytes: UTF-8 bytes that the scored tokens stand for, one for the end; -1 if unknown.
        key: 16 bytes that tell documents of different content apart.
    """

    tokens: NDArray[Any]
    scored_from: int
    scored_bytes: int
    key: bytes


@dataclass(frozen=True)
class Tokenizer:
    """What is known of a tokenizer. `vocab` is 0 and `end` None where sources alone tell."""

    name: str
    sha256: str
    vocab: int
    end: int | None


def describe(options: Options, tokens: bool) -> Tokenizer:
    """Describe the tokenizer of a build; `tokens` says that the sources are tokens already.

    Raises:
        DataError: it cannot be read, or has no token that ends documents.
    """
    asked = options.end_of_document
    if tokens and asked and not asked.isdecimal():
        raise DataError(
            f"--end-of-document: expected the number of a token, as sources are tokens, got {asked!r}"
        )
    if options.tokenizer in ("", BYTES):
        if tokens:
            return Tokenizer("", "", 0, int(asked) if asked else None)
        if asked:
            raise DataError(f"--end-of-document: bytes have one already, {BYTES_SEPARATOR:#x}; leave it out")
        return Tokenizer(BYTES, "", BYTES_VOCAB, BYTES_SEPARATOR)
    made, path = tokenizer(options.tokenizer), tokenizer_path(options.tokenizer)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    if tokens:
        end: int | None = int(asked) if asked else None
    else:
        end = _end(made, asked, path)
    return Tokenizer("tokenizer.json", sha256, made.get_vocab_size(with_added_tokens=True), end)


def _end(made: Any, asked: str, path: Path) -> int:
    if asked:
        number = int(asked) if asked.isdecimal() else made.token_to_id(asked)
        if number is None or made.id_to_token(number) is None:
            raise DataError(f"--end-of-document: {path} has no token {asked!r}")
        return int(number)
    for name in USUAL_ENDS:
        if (usual := made.token_to_id(name)) is not None:
            return int(usual)
    raise DataError(
        f"{path}: has none of {', '.join(USUAL_ENDS)}; name the token that ends documents with "
        "--end-of-document"
    )


def tokenizer_path(name: str) -> Path:
    """Return the file of a tokenizer, given as such or as a folder that holds it."""
    return Path(name, "tokenizer.json") if Path(name).is_dir() else Path(name)


def tokenizer(name: str) -> Any:
    """Read a tokenizer.json; special tokens that stand in text are taken for text.

    Raises:
        DataError: it cannot be read, or `tokenizers` is not installed.
    """
    path = tokenizer_path(name)
    try:
        return _read(path, path.stat().st_mtime_ns)
    except OSError as error:
        raise DataError(os_message(error, path)) from None


@lru_cache(maxsize=2)
def _read(path: Path, modified_ns: int) -> Any:
    tokenizers = needed("tokenizers", f"{path}: tokenizing")
    try:
        made = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises nothing more specific
        raise DataError(f"{path}: not a tokenizer.json: {error}") from None
    made.encode_special_tokens = True
    made.no_padding()
    made.no_truncation()
    return made


def encoded(documents: Iterable[Document], options: Options, known: Tokenizer) -> Iterator[Encoded]:
    """Encode documents, some at a time; empty ones are left out."""
    iterator = iter(documents)
    while batch := [*_some(iterator)]:
        if batch[0].tokens is not None:
            yield from (_as_they_are(document.tokens, known) for document in batch)
        else:
            yield from _encoded(batch, options, known)


def _some(documents: Iterator[Document]) -> Iterator[Document]:
    letters = 0
    for document in islice(documents, 1024):
        if document.tokens is not None and len(document.tokens):
            yield document
        elif document.text:
            yield document
            letters += len(document.text) + len(document.prompt)
        if letters > _BATCH_LETTERS:
            return


def _as_they_are(tokens: Any, known: Tokenizer) -> Encoded:
    numbers = np.asarray(tokens)
    low, high = int(numbers.min()), int(numbers.max())
    if low < 0 or (known.vocab and high >= known.vocab):
        most = f"0 .. {known.vocab - 1}" if known.vocab else "0 or more"
        raise DataError(
            f"expected tokens of {most}, got {low if low < 0 else high}; is the type of tokens right?"
        )
    return Encoded(numbers, 0, -1, _key(numbers.astype("<u4").tobytes()))


def _encoded(batch: Sequence[Document], options: Options, known: Tokenizer) -> Iterator[Encoded]:
    texts = [text for document in batch for text in (document.prompt, document.text) if text]
    if known.name == BYTES:
        encoded = iter([np.frombuffer(text.encode(), np.uint8) for text in texts])
    else:
        encodings = tokenizer(options.tokenizer).encode_batch(texts, add_special_tokens=False)
        encoded = iter([np.array(each.ids, np.uint32) for each in encodings])
    for document in batch:
        prompt = next(encoded) if document.prompt else np.zeros(0, np.uint8)
        target = next(encoded)
        tokens = np.concatenate([prompt, target, np.array([known.end], np.uint32)])
        text = document.text.encode()
        key = _key(document.prompt.encode() + b"\xff" + text)
        yield Encoded(tokens, len(prompt), len(text) + 1, key)


def _key(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()


def one_thread() -> None:
    """Have `tokenizers` use one thread in this process, one of several workers."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
