"""What every command takes: the file first, and `--set`."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import typer

SpecFile: TypeAlias = Annotated[
    str, typer.Argument(metavar="SPEC", help="The spec, a YAML file.", show_default=False)
]
"""The path of a spec."""

Set: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="PATH=VALUE",
        help="Set one value, such as model.width=128 or stages.0.recur=4. May be repeated.",
        show_default=False,
    ),
]
"""Values laid over the file, one an option."""

KernelChoice: TypeAlias = Annotated[
    Literal["auto", "reference", "fused"],
    typer.Option(
        help="The best kernel that fits, plain PyTorch only, or an error where a fused kernel does not fit."
    ),
]
"""Which kernels may run."""

CompileChoice: TypeAlias = Annotated[
    Literal["auto", "on", "off"],
    typer.Option(
        "--torch-compile",
        help="Whether torch compiles what lies between kernels of our own: auto does on a GPU, in long runs.",
    ),
]
"""Whether torch.compile is used."""
