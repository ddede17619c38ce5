"""Looking into tokenized data: sequences as a training reads them, the share of padding, hashes."""

from __future__ import annotations

import hashlib
import os
from typing import NamedTuple

import numpy as np

from composer.data.base.errors import DataError
from composer.data.base.stream import IGNORED
from composer.data.tokens.manifest import Manifest
from composer.data.tokens.shards import open_split
from composer.data.tokens.shuffle import epoch_keys, shuffled
from composer.data.tokens.windows import Apart, Documents, Packed, Windows

_BLOCK = 1 << 22


class Cut(NamedTuple):
    """How a split is cut into sequences.

    Attributes:
        sequences: how many there are.
        padding: the share of positions without a token.
        rows: some sequences, each as its tokens and whether each token is scored.
    """

    sequences: int
    padding: float
    rows: list[tuple[list[int], list[bool]]]


def cut(manifest: Manifest, split: str, length: int, documents: Documents, seed: int, count: int) -> Cut:
    """Cut a split into sequences and return the first `count` of a training with `seed`.

    Raises:
        DataError: there is no such split, or it is too short.
    """
    shards = open_split(manifest, split)
    windows: Windows = Packed(shards, length)
    padding = 0.0
    if documents == "apart":
        windows = Apart(shards, length, manifest.end_of_document or 0)
        data = manifest.split(split)
        # the last token of a document is a target only
        padding = 1 - (data.tokens - data.documents) / max(windows.count * length, 1)
    if not windows.count:
        raise DataError(f"{manifest.folder}: {split} is too short for a sequence of {length} tokens")
    key, offset = epoch_keys(seed, 0, 0, 2)
    numbers = shuffled(np.arange(min(count, windows.count)), windows.count, key)
    tokens, targets = windows.rows(numbers, offset)
    return Cut(windows.count, padding, [_row(*each, manifest) for each in zip(tokens, targets, strict=True)])


def _row(tokens: np.ndarray, targets: np.ndarray, manifest: Manifest) -> tuple[list[int], list[bool]]:
    """Join tokens and their last target; a token is scored where it is the target before."""
    scored = np.concatenate([[False], targets != IGNORED])
    after = np.append(tokens, targets[-1] if scored[-1] else (manifest.end_of_document or 0))
    # padding follows the last scored target
    size = int(np.flatnonzero(scored)[-1]) + 1 if scored.any() else len(tokens)
    size = size if (tokens[size:] == (manifest.end_of_document or 0)).all() else len(tokens)
    return after[:size].tolist(), scored[:size].tolist()


def verify_hashes(manifest: Manifest) -> None:
    """Read all files and compare their hashes with the manifest's.

    Raises:
        DataError: a file is missing or has another content.
    """
    for split in manifest.splits.values():
        for shard in split.shards:
            path = os.path.join(manifest.folder, shard.name)
            if _sha256(f"{path}.tokens", f"{path}.documents") != shard.sha256:
                raise DataError(f"{path}: its content is not what the manifest says; build the data again")
    if manifest.tokenizer_sha256:
        path = os.path.join(manifest.folder, manifest.tokenizer)
        if _sha256(path) != manifest.tokenizer_sha256:
            raise DataError(f"{path}: its content is not what the manifest says; build the data again")


def _sha256(*paths: str) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    return digest.hexdigest()
