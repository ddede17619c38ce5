"""`composer data show`: what is in a folder of tokenized data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from composer.data.tokens.manifest import Manifest

PANEL = "Commands"
EXAMPLE = "composer data show data/corpus --length 64"


def show(
    folder: Annotated[
        str, typer.Argument(metavar="DIR", help="A folder of tokenized data.", show_default=False)
    ],
    length: Annotated[int, typer.Option(min=1, help="Tokens per sequence.")] = 128,
    count: Annotated[int, typer.Option(min=0, help="How many sequences to print.")] = 2,
    documents: Annotated[
        Literal["packed", "apart"], typer.Option(help="As the field of `task: tokens`.")
    ] = "packed",
    split: Annotated[str, typer.Option(help="Which set: train, eval or another.")] = "train",
    seed: Annotated[int, typer.Option(min=0, help="The seed of the order.")] = 0,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read all files and compare their hashes.")
    ] = False,
) -> None:
    """Print what a folder holds, the share of padding, and sequences as a training would read them.

    Text that is scored is underlined on a terminal, elsewhere between brackets.
    """
    from composer.cli.commands.data.build import print_report
    from composer.data.tokens.inspect import cut, verify_hashes
    from composer.data.tokens.manifest import read_manifest

    manifest = read_manifest(folder)
    manifest.check_sizes()
    if verify:
        verify_hashes(manifest)
    print_report(manifest)
    if verify:
        print("all files have the content that the manifest says")
    sample = cut(manifest, split, length, documents, seed, count)
    size = f"{sample.sequences:,} sequences of {length} tokens"
    print(f"{split}, {documents}: {size}, {sample.padding:.1%} padding")
    for tokens, scored in sample.rows:
        _print_row(manifest, tokens, scored)


def _print_row(manifest: Manifest, tokens: list[int], scored: list[bool]) -> None:
    from itertools import groupby

    from rich.text import Text

    from composer.cli.terminal.console import console
    from composer.data.building.decode import decode

    out, text = console(), Text()
    for is_scored, group in groupby(zip(tokens, scored, strict=True), key=lambda each: each[1]):
        words = decode(manifest, [token for token, _ in group])
        marked = words if out.is_terminal or not is_scored else f"[{words}]"
        text.append(marked, "underline" if is_scored else "dim")
    out.rule()
    out.print(text)
