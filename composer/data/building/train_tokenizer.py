"""Training a tokenizer: byte-level BPE, by `tokenizers`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from composer.data.base.errors import DataError
from composer.data.building.base.extras import needed
from composer.data.building.base.source import Options
from composer.data.building.find import find_units, formats
from composer.data.building.tokenizing import USUAL_ENDS
from composer.settings.errors import listed, os_message

BYTE_TOKENS = 256


def train_tokenizer(
    sources: Sequence[str], out: Path, vocab: int, options: Options, glob: str | None = None
) -> Any:
    """Train byte-level BPE (arXiv 1508.07909) with `vocab` tokens on sources of text, and write it to `out`.

    Token 0 ends documents; the 256 bytes are tokens, so that any text can be written.

    Raises:
        DataError: a source cannot be read, or is not text; there is no text, `vocab` is too small, or `out`
            cannot be written.
    """
    if vocab <= BYTE_TOKENS:
        raise DataError(
            f"--vocab: expected more than {BYTE_TOKENS}, the bytes and the end of a document, got {vocab}"
        )
    tokenizers = needed("tokenizers", "training a tokenizer")
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[USUAL_ENDS[0]],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = _texts(sources, options, glob)
    first = next(texts, None)
    if first is None:
        raise DataError(f"{listed(sources, 'and')}: no text to train a tokenizer on, only empty documents")
    made.train_from_iterator(chain([first], texts), trainer)
    aside = Path(f"{out}.{os.getpid()}.tmp")
    try:
        aside.write_text(made.to_str(pretty=True), encoding="utf-8")
        os.replace(aside, out)
    except OSError as error:
        raise DataError(os_message(error, out, writing=True)) from error
    finally:
        aside.unlink(missing_ok=True)
    return made


def _texts(sources: Sequence[str], options: Options, glob: str | None) -> Iterator[str]:
    for source in sources:
        for unit in find_units(source, options, glob if Path(source).is_dir() else None):
            unit_format = formats()[unit.format]
            if unit_format.tokens:
                raise DataError(f"{unit.path}: expected text, got tokens ({unit_format.name})")
            for document in unit_format.documents(unit, options):
                yield from (text for text in (document.prompt, document.text) if text)
