"""`composer data build`: tokenized data from text, tables, or the tokens of other programs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from composer.data.building.base.source import Fields
    from composer.data.building.build import Progress
    from composer.data.tokens.manifest import Manifest

PANEL = "Commands"
EXAMPLE = "composer data build corpus/ --tokenizer bytes --out data/corpus"
_FRACTION = 0.05
_SECONDS_PER_LINE = 10.0

SourceFiles = Annotated[
    list[str],
    typer.Argument(
        metavar="SRC", help="Files, folders, or hf:owner/name on the Hugging Face hub.", show_default=False
    ),
]
FieldNames = Annotated[
    str | None,
    typer.Option(
        "--fields",
        metavar="text=NAME|prompt=NAME,target=NAME",
        help="The fields of a record that are its text, `text` by default; or those of a prompt, which is "
        "not scored, and its target.",
        show_default=False,
    ),
]
Documents = Annotated[
    Literal["file", "paragraph", "line"],
    typer.Option(
        help="What is a document of a text file. A `file` above 1 MiB is cut at ends of lines into "
        "documents of about 16 KiB; paragraphs end at blank lines."
    ),
]
Glob = Annotated[
    str | None,
    typer.Option(help="Which files of folders, such as '**/*.md'. Default: all except hidden ones."),
]


def build(
    sources: SourceFiles,
    out: Annotated[str, typer.Option(help="The folder to make.", show_default=False)],
    tokenizer: Annotated[
        str,
        typer.Option(
            metavar="FILE|bytes",
            help="A tokenizer.json, a folder that has one, or `bytes`.",
            show_default=True,
        ),
    ] = "bytes",
    fields: FieldNames = None,
    join: Annotated[
        str, typer.Option(help=r"What stands between a prompt and its target; \n is a new line.")
    ] = r"\n",
    documents: Documents = "file",
    glob: Glob = None,
    held_out: Annotated[
        list[str] | None,
        typer.Option(
            "--eval",
            metavar="NAME=SRC",
            help="A source of which all is held out, as the set NAME; its documents are left out of all "
            "others. May be repeated.",
            show_default=False,
        ),
    ] = None,
    eval_fraction: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=0.999,
            help="Share of documents held out as the set `eval`. "
            f"Default: {_FRACTION}, or 0 if --eval names that set.",
            show_default=False,
        ),
    ] = None,
    dedupe: Annotated[bool, typer.Option("--dedupe", help="Leave out documents that came before.")] = False,
    format: Annotated[
        str | None,
        typer.Option(
            help="The format of all sources: text, jsonl, parquet, arrow, nanogpt, litgpt, olmo. Default: "
            "recognised file by file.",
            show_default=False,
        ),
    ] = None,
    dtype: Annotated[
        Literal["uint8", "uint16", "uint32"] | None,
        typer.Option(help="The type of tokens in files that do not say.", show_default=False),
    ] = None,
    end_of_document: Annotated[
        str | None,
        typer.Option(
            metavar="TOKEN",
            help="The token that ends documents. Default: a usual one of the tokenizer. For sources that are "
            "tokens, its number; without it they are cut into documents of 16,384 tokens.",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes. Default: one for each core.", show_default=False)
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace data or an unfinished build there.")
    ] = False,
) -> None:
    """Tokenize sources into a folder for `task: tokens`: text, JSON lines, Parquet, Arrow, also .gz and .zst.

    Token files of nanoGPT, llm.c, litgpt and OLMo-core are imported. A build that was stopped goes on when
    the same command is given again. Documents are held out by their content, so that equal ones are never in
    both train and eval.
    """
    from composer.data.building.base.source import Options
    from composer.data.building.build import Sources, build
    from composer.data.building.find import formats

    if format is not None and format not in formats():
        raise typer.BadParameter(
            f"expected one of {', '.join(formats())}, got {format!r}", param_hint="--format"
        )
    named = [_named(each) for each in held_out or ()]
    fraction = eval_fraction if eval_fraction is not None else 0.0 if "eval" in dict(named) else _FRACTION
    options = Options(
        tokenizer=tokenizer,
        end_of_document=end_of_document or "",
        fields=read_fields(fields),
        join=join.replace(r"\n", "\n").replace(r"\t", "\t"),
        documents=documents,
        format=format or "",
        dtype=dtype or "",
        eval_fraction=fraction,
        dedupe=dedupe,
    )
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    count = workers or usable or 1
    with _shown() as report:
        manifest = build(Sources(sources, named, glob), Path(out), options, count, force, report)
    print_report(manifest)


def read_fields(text: str | None) -> Fields:
    """Read `text=NAME` or `prompt=NAME,target=NAME`."""
    from composer.data.building.base.source import Fields

    fields = dict(each.strip().partition("=")[::2] for each in (text or "text=text").split(","))
    if fields.keys() not in ({"text"}, {"prompt", "target"}) or not all(fields.values()):
        raise typer.BadParameter(
            f"expected text=NAME or prompt=NAME,target=NAME, got {text!r}", param_hint="--fields"
        )
    return Fields(**fields)


def _named(text: str) -> tuple[str, str]:
    import re

    name, _, source = text.partition("=")
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]*", name) or not source:
        raise typer.BadParameter(
            f"expected NAME=SRC, such as test=test.jsonl, got {text!r}", param_hint="--eval"
        )
    return name, source


@contextmanager
def _shown() -> Iterator[Callable[[Progress], None]]:
    """Show progress: a bar on a terminal, else a line now and then."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines()
        return
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns: tuple[Any, ...] = (
        TextColumn("tokenizing"),
        BarColumn(20),
        DownloadColumn(),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda progress: bar.update(task, total=progress.total, completed=progress.done)


class _Lines:
    """Prints a line every few seconds."""

    def __init__(self) -> None:
        self.printed = 0.0

    def __call__(self, progress: Progress) -> None:
        if progress.seconds - self.printed >= _SECONDS_PER_LINE:
            from composer.cli.terminal.progress import clock

            self.printed = progress.seconds
            left = f", {clock(progress.seconds_left)} left" if progress.seconds_left else ""
            print(f"{progress.done / 1e6:,.0f} of {progress.total / 1e6:,.0f} MB{left}", flush=True)


def print_report(manifest: Manifest) -> None:
    """Print what a folder holds."""
    from rich.table import Table

    from composer.cli.terminal.console import console

    table = Table(
        title=f"{manifest.folder}: {manifest.tokenizer or 'tokens'}, {manifest.vocab:,} ids, {manifest.dtype}"
    )
    columns = (
        "set",
        "documents",
        "tokens",
        *(["scored"] if manifest.examples else []),
        "bytes per token",
        "shards",
    )
    for i, name in enumerate(columns):
        table.add_column(name, justify="right" if i else "left")
    for name, split in manifest.splits.items():
        per_token = f"{split.scored_bytes / split.scored_tokens:.3f}" if split.scored_bytes else "-"
        scored = [f"{split.scored_tokens:,}"] if manifest.examples else []
        table.add_row(
            name, f"{split.documents:,}", f"{split.tokens:,}", *scored, per_token, str(len(split.shards))
        )
    console().print(table)
    dropped = {
        "in a held-out set": manifest.report.get("dropped_held_out", 0),
        "repeated": manifest.report.get("dropped_repeated", 0),
    }
    for reason, count in dropped.items():
        if count:
            print(f"left out: {count:,} documents {reason}")
