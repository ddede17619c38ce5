"""`composer data tokenizer`: byte-level BPE for a corpus."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from composer.cli.commands.data.build import Documents, FieldNames, Glob, SourceFiles, read_fields

PANEL = "Commands"
EXAMPLE = "composer data tokenizer corpus/ --vocab 4096 --out tokenizer.json"


def tokenizer(
    sources: SourceFiles,
    vocab: Annotated[int, typer.Option(help="The number of tokens, more than 256.")] = 4096,
    out: Annotated[str, typer.Option(metavar="FILE", help="The file to write.")] = "tokenizer.json",
    fields: FieldNames = None,
    documents: Documents = "file",
    glob: Glob = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
) -> None:
    """Train a byte-level BPE tokenizer (arXiv 1508.07909) on text.

    Any text can be written with it, since all bytes are among its tokens. Token 0, <|endoftext|>, ends
    documents. Needs the extra `data`.
    """
    from composer.cli.terminal.files import make_folder
    from composer.data.building.base.source import Options
    from composer.data.building.train_tokenizer import train_tokenizer
    from composer.settings.errors import UserError

    if os.path.exists(out) and not force:  # False where a folder cannot be looked into, which is told below
        raise UserError(f"{out} exists; choose another file or replace it with --force")
    make_folder(Path(out).parent)
    options = Options(fields=read_fields(fields), documents=documents)
    made = train_tokenizer(sources, Path(out), vocab, options, glob)
    size = made.get_vocab_size()
    fewer = f" (the text has no pairs left for the {vocab:,} asked for)" if size < vocab else ""
    print(f"{size:,} tokens, written to {out}{fewer}")
