"""`composer compile`: the plan of a spec, and on request the code it is emitted as."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from composer.cli.options import Set, SpecFile


def compile(
    file: SpecFile,
    settings: Set = None,
    code: Annotated[
        bool, typer.Option("--code", help="Print the PyTorch code of every step as well.")
    ] = False,
    kernels: Annotated[
        Literal["auto", "reference"],
        typer.Option(help="Fused kernels where there are, or plain PyTorch only."),
    ] = "auto",
) -> None:
    """Print the plan: each operation with its shape per token, its weights, its kernel and why.

    A value of shape 4x16 is a tensor [batch, sequence, 4, 16].
    """
    from composer import load
    from composer.costs.caps import check_caps
    from composer.costs.plan import plan

    spec = load(file, settings or ())
    check_caps(spec)
    print(plan(spec, kernels), end="")
    if code:
        from composer.module.emit import source
        from composer.training.build import build

        model = build(spec, kernels)
        for name, text in source(model):
            print(f"\n# {name}\n{text}", end="")
