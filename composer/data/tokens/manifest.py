"""`manifest.json` of a folder of tokenized data: what is in it, and how it was made. Torch-free.

The manifest is written last, so a folder without one is not finished. It holds the hash of every file, so
that the content is known without reading it.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from composer.data.base.errors import DataError
from composer.data.base.fingerprint import FileMark, Fingerprint
from composer.data.base.split import TRAIN
from composer.settings.errors import listed, os_message

MANIFEST = "manifest.json"
FORMAT = 1
BYTES = "bytes"
"""The name of the tokenizer whose tokens are the bytes of UTF-8 text."""
BYTES_VOCAB = 256
BYTES_SEPARATOR = 0xFF
"""The token between documents of bytes, which UTF-8 never uses."""
_ITEM_BYTES = {"uint8": 1, "uint16": 2, "uint32": 4}


@dataclass(frozen=True)
class Shard:
    """One pair of files: `<name>.tokens`, flat, and `<name>.documents`, int64 [2, documents].

    Row 0 of `documents` has the end of each document, row 1 the first of its tokens that is scored.

    Attributes:
        sha256: of the content of `<name>.tokens` followed by that of `<name>.documents`.
    """

    name: str
    tokens: int
    documents: int
    sha256: str


@dataclass(frozen=True)
class SplitData:
    """The documents of one split.

    Attributes:
        scored_tokens: how many tokens are targets: all, or those of the targets of examples.
        scored_bytes: UTF-8 bytes that these stand for, one for each end of a document; None if unknown.
    """

    shards: tuple[Shard, ...]
    scored_tokens: int
    scored_bytes: int | None

    @property
    def tokens(self) -> int:
        """All tokens of the split."""
        return sum(shard.tokens for shard in self.shards)

    @property
    def documents(self) -> int:
        """All documents of the split."""
        return sum(shard.documents for shard in self.shards)


@dataclass(frozen=True)
class Manifest:
    """A folder of tokenized data.

    Attributes:
        folder: where it is.
        dtype: of the tokens, little-endian: uint8, uint16 or uint32.
        vocab: number of token ids.
        end_of_document: the token at the end of each document; None if documents end without one.
        tokenizer: `bytes`, the file in the folder, or "" if unknown.
        tokenizer_sha256: hash of that file, or "".
        examples: whether some tokens, those of prompts, are not scored.
        splits: by name; `train` is the one to train on, all others are held out.
        report: how the data was made, for people.
    """

    folder: str
    dtype: str
    vocab: int
    end_of_document: int | None
    tokenizer: str
    tokenizer_sha256: str
    examples: bool
    splits: dict[str, SplitData]
    report: dict[str, Any] = field(default_factory=dict)

    @property
    def item_bytes(self) -> int:
        """Bytes of one token on disk."""
        return _ITEM_BYTES[self.dtype]

    @property
    def held_out(self) -> list[str]:
        """The names of the splits that are not trained on."""
        return [name for name in self.splits if name != TRAIN]

    def split(self, name: str) -> SplitData:
        """Return a split.

        Raises:
            DataError: there is none of that name.
        """
        if name not in self.splits:
            raise DataError(f"{self.folder}: no set {name!r}; there are {listed(self.splits, 'and')}")
        return self.splits[name]

    def fingerprint(self) -> Fingerprint:
        """Return what the data is by content, from the hashes in the manifest.

        Raises:
            DataError: a file is missing, or is not as large as the manifest says.
        """
        self.check_sizes()
        marks = [
            FileMark(f"{shard.name}.tokens", shard.tokens * self.item_bytes, shard.sha256)
            for split in self.splits.values()
            for shard in split.shards
        ]
        if self.tokenizer_sha256:
            size = Path(self.folder, self.tokenizer).stat().st_size
            marks.append(FileMark(self.tokenizer, size, self.tokenizer_sha256))
        return Fingerprint(tuple(marks))

    def check_sizes(self) -> None:
        """Check that all files are there and as large as the manifest says.

        Raises:
            DataError: one is not.
        """
        for split in self.splits.values():
            for shard in split.shards:
                self._check_size(f"{shard.name}.tokens", shard.tokens * self.item_bytes)
                self._check_size(f"{shard.name}.documents", shard.documents * 16)
        if self.tokenizer_sha256:
            self._check_size(self.tokenizer, None)

    def _check_size(self, name: str, size: int | None) -> None:
        path = os.path.join(self.folder, name)
        try:
            got = os.stat(path).st_size
        except OSError as error:
            raise DataError(f"{os_message(error, path)}; {MANIFEST} names it: build the data again") from None
        if size is not None and got != size:
            raise DataError(
                f"{path}: expected {size:,} bytes as in {MANIFEST}, got {got:,}; build the data again"
            )

    def to_json(self) -> str:
        """Return the text of the file."""
        fields = {"format": FORMAT, **asdict(self)}
        del fields["folder"]
        return json.dumps(fields, indent=1, ensure_ascii=False) + "\n"


def read_manifest(folder: str) -> Manifest:
    """Read the manifest of a folder; it is read again only when the file has changed.

    Raises:
        DataError: the folder has none, or it is damaged or of another version.
    """
    path = Path(folder, MANIFEST)
    try:
        state = path.stat()
    except OSError as error:
        raise DataError(_missing(folder, error)) from None
    return _read(folder, state.st_mtime_ns, state.st_size)


def _missing(folder: str, error: OSError) -> str:
    if not Path(folder).is_dir():
        where = f" (relative to {Path.cwd()})" if not os.path.isabs(folder) else ""
        return f"{os_message(error, folder)}{where}; make it with: composer data build SRC --out {folder}"
    if Path(folder, ".build").exists():
        return (
            f"{folder}: its build is not finished; give the same `composer data build` again to continue it"
        )
    return (
        f"{folder}: no {MANIFEST}, so this is not tokenized data; make it with: composer data build SRC "
        f"--out DIR, or read files of text with task: text"
    )


@lru_cache(maxsize=64)
def _read(folder: str, modified_ns: int, size: int) -> Manifest:
    path = Path(folder, MANIFEST)
    try:
        stored = json.loads(path.read_bytes())
        if stored["format"] != FORMAT:
            raise DataError(
                f"{path}: expected format {FORMAT}, got {stored['format']!r}; build the data again"
            )
        splits = {
            str(name): SplitData(
                tuple(
                    Shard(str(s["name"]), int(s["tokens"]), int(s["documents"]), str(s["sha256"]))
                    for s in split["shards"]
                ),
                int(split["scored_tokens"]),
                None if split["scored_bytes"] is None else int(split["scored_bytes"]),
            )
            for name, split in stored["splits"].items()
        }
        end = stored["end_of_document"]
        manifest = Manifest(
            folder,
            str(stored["dtype"]),
            int(stored["vocab"]),
            None if end is None else int(end),
            str(stored["tokenizer"]),
            str(stored["tokenizer_sha256"]),
            bool(stored["examples"]),
            splits,
            dict(stored["report"]),
        )
        if manifest.dtype not in _ITEM_BYTES:
            raise DataError(f"{path}: expected dtype {listed(_ITEM_BYTES)}, got {manifest.dtype!r}")
        return manifest
    except OSError as error:
        raise DataError(os_message(error, path)) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{path}: expected a manifest of tokenized data, but it is damaged "
            f"({type(error).__name__}: {error})"
        ) from None
