"""What is built from what: documents, the options of a build, units of work, and what a format is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from numpy.typing import NDArray

from composer.data.tokens.manifest import BYTES

UNIT_BYTES = 16 << 20
"""About how much of a source is worked on at once; each worker holds that much."""


class Document(NamedTuple):
    """One document: text with an optional prompt that is not scored, or tokens as they are."""

    text: str = ""
    prompt: str = ""
    tokens: NDArray[Any] | None = None


@dataclass(frozen=True)
class Fields:
    """The keys of a record whose strings are a document: `text`, or `prompt` and `target`."""

    text: str = "text"
    prompt: str = ""
    target: str = ""

    @property
    def names(self) -> list[str]:
        """The keys to read."""
        return [self.prompt, self.target] if self.prompt else [self.text]


@dataclass(frozen=True)
class Options:
    """How data are built; equal options and sources give equal data.

    Attributes:
        tokenizer: `bytes`, a tokenizer.json, or "" for sources that are tokens already.
        end_of_document: the token that ends documents, as text or as a number; "" to take the usual one.
        fields: of records.
        join: what stands between a prompt and its target.
        documents: what is a document of a text file.
        format: of all sources, "" to recognise each.
        dtype: of raw tokens, "" for the usual one of their format.
        eval_fraction: the share of documents that is held out as `eval`.
        dedupe: whether documents that came before are left out.
        shard_tokens: about how large a shard becomes.
    """

    tokenizer: str = BYTES
    end_of_document: str = ""
    fields: Fields = Fields()
    join: str = "\n"
    documents: Literal["file", "paragraph", "line"] = "file"
    format: str = ""
    dtype: str = ""
    eval_fraction: float = 0.05
    dedupe: bool = False
    shard_tokens: int = 1 << 28


class Unit(NamedTuple):
    """A part of a source that is worked on at once.

    Attributes:
        start, end: what of the file, as its format counts; an end of -1 is that of the file.
        size: bytes on disk, for progress.
        split: `train` for documents that are divided into train and eval, or the held-out set they belong to.
    """

    format: str
    path: str
    start: int
    end: int
    size: int
    split: str


class Format(NamedTuple):
    """One format of sources.

    Attributes:
        recognises: whether a file is of this format, by its name without .gz or .zst, its path and its
            first bytes.
        units: divides a file, as (start, end, bytes).
        documents: reads the documents of one unit.
        tokens: whether documents are tokens.
        general: formats are asked in this order whether they recognise a file, those of the same by name.
    """

    name: str
    recognises: Callable[[str, Path, bytes], bool]
    units: Callable[[Path, Options], Iterator[tuple[int, int, int]]]
    documents: Callable[[Unit, Options], Iterator[Document]]
    tokens: bool = False
    general: int = 0
