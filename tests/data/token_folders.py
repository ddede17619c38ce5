"""Folders of tokenized data for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from composer.data.tokens.manifest import MANIFEST, Manifest
from composer.data.tokens.writer import writing


def write_tokens(
    folder: Path,
    splits: dict[str, list[list[int]]],
    vocab: int = 256,
    dtype: str = "uint16",
    prompts: int = 0,
    shard_tokens: int = 1 << 20,
    end: int | None = 0,
) -> str:
    """Write documents by split; the first `prompts` tokens of each are not scored."""
    folder.mkdir(parents=True, exist_ok=True)
    results = {}
    for split, documents in splits.items():
        with writing(folder, split, dtype, shard_tokens) as writer:
            for document in documents:
                tokens = np.array(document, np.int64)
                writer.add(
                    tokens, np.array([len(tokens)]), np.array([min(prompts, len(tokens))]), len(tokens)
                )
            results[split] = writer.finish()
    manifest = Manifest(str(folder), dtype, vocab, end, "", "", prompts > 0, results)
    (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return str(folder)
