"""`composer generate`: continue prompts with a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from composer.cli.terminal.options import Checkpoint, GraphChoice, Run, Steps, Which
from composer.cli.terminal.steps import one_number

if TYPE_CHECKING:
    from composer.module.generation.cache_policy import Cache

PANEL = "Training"
EXAMPLE = "composer generate runs/first --prompt '3 1 4 1 5'"


def generate(
    run: Run,
    prompt: Annotated[
        list[str],
        typer.Option(
            "--prompt",
            metavar="TEXT",
            help="What to continue: text, or for tasks without text tokens as numbers; - reads standard "
            "input. May be repeated.",
            show_default=False,
        ),
    ],
    max_new_tokens: Annotated[
        int | None,
        typer.Option(
            "--max-new-tokens",
            metavar="N",
            min=1,
            help="New tokens at most. Default: 200, or what the context holds.",
            show_default=False,
        ),
    ] = None,
    temperature: Annotated[
        float,
        typer.Option("--temperature", metavar="T", help="Divide logits by T; 0 takes the likeliest token."),
    ] = 1.0,
    top_k: Annotated[
        int | None, typer.Option("--top-k", metavar="K", help="Draw from the K likeliest tokens.")
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option("--top-p", metavar="P", help="Draw from the likeliest tokens that add up to P."),
    ] = None,
    stop: Annotated[
        list[str] | None,
        typer.Option(
            "--stop",
            metavar="TEXT",
            help="End after this text, or for tasks without text after these tokens, such as '3 1'. "
            "May be repeated.",
        ),
    ] = None,
    steps: Steps = None,
    exit_threshold: Annotated[
        float | None,
        typer.Option(
            "--exit-threshold",
            metavar="P",
            help="Take each token from the first step at which its exit probabilities add up to P.",
        ),
    ] = None,
    cache: Annotated[
        str,
        typer.Option(
            "--cache",
            metavar="full|last_step|budget=K",
            help="Of which recurrent steps keys and values are kept: all, the last, or K by turns. "
            "Less than all changes the text.",
        ),
    ] = "full",
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="What tokens are drawn by.")] = 0,
    checkpoint: Checkpoint = Which.best,
    cuda_graph: GraphChoice = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print plain JSON at the end.")] = False,
) -> None:
    """Continue prompts with a trained model; text is printed as it comes.

    With --json, cache_bytes_per_token is what is kept for each token.

    It ends after the last new token, at the end of a document, or after a text given by --stop. The same seed
    gives the same text.
    """
    from composer.training.continuing import Continued
    from composer.training.score import read
    from composer.training.trainer import device_kind

    numbers = one_number(steps or ())
    kept = _cache(cache)
    drawn = (max_new_tokens, temperature, top_k, top_p, stop or (), numbers, exit_threshold, seed)
    how = Continued(*drawn, kept, cuda_graph)
    model = read(Path(run), checkpoint.value).model().to(device_kind())
    made, prompts = [], [_text(each) for each in prompt]
    for each in prompts:
        made.append("")
        ahead = each  # with the first piece, since what cannot be continued is refused before it
        try:
            for piece in how.pieces(model, each):
                made[-1] += piece
                if not json:
                    print(ahead + piece, end="", flush=True)
                    ahead = ""
        except KeyboardInterrupt:
            if not ahead:
                print(flush=True)
            raise
        if not json:
            print(ahead, flush=True)
    if json:
        from json import dumps

        size = {"cache_bytes_per_token": model.cache_bytes_per_token(kept, numbers)}
        entries = [{"prompt": a, "text": b, **size} for a, b in zip(prompts, made, strict=True)]
        print(dumps(entries, indent=2))


def _text(prompt: str) -> str:
    """Return a prompt, or standard input without its last line break for "-"."""
    if prompt != "-":
        return prompt
    import sys

    return sys.stdin.read().removesuffix("\n")


def _cache(option: str) -> Cache:
    """Return what the option stands for."""
    name, _, number = option.partition("=")
    if name == "budget" and number.isascii() and number.isdigit() and int(number[:9]) > 0:
        return {"budget": int(number[:9])}
    if option in ("full", "last_step"):
        return cast("Literal['full', 'last_step']", option)
    raise typer.BadParameter(
        f"expected full, last_step, or a budget such as budget=4, got {option!r}", param_hint="--cache"
    )
