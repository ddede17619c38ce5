"""What several commands take: the file first, `--set`, `--bound`, kernels."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import typer

if TYPE_CHECKING:
    from composer.language.schema.shape_bounds import ShapeBounds

SpecFile: TypeAlias = Annotated[
    str, typer.Argument(metavar="SPEC", help="The spec, a YAML file.", show_default=False)
]
"""The path of a spec."""


class Which(StrEnum):
    """Which weights of a run folder."""

    best = "best"
    last = "last"


Run: TypeAlias = Annotated[
    str, typer.Argument(metavar="RUN", help="A run folder, or a file of weights.", show_default=False)
]
"""A trained model."""

Checkpoint: TypeAlias = Annotated[Which, typer.Option("--checkpoint", help="Which weights of a run folder.")]

Data: TypeAlias = Annotated[
    str | None,
    typer.Option("--data", metavar="PATH", help="Where the run's own data is now; it has to be the same."),
]
"""The place of a run's data, where that has moved."""

Steps: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--steps",
        metavar="N",
        help="Run the recurrent stage for N steps. With several such stages name one, as in stages.0=4. "
        "May be repeated.",
    ),
]
"""One number of steps for each stage; `composer.cli.terminal.steps.one_number` reads it."""

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

Bound: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--bound",
        metavar="BOUND=VALUE",
        help="Replace one bound of shape, such as width_factor=2 or hidden_ratio=[1,16]; docs/costs.md has "
        "all of them with their defaults. May be repeated.",
        show_default=False,
    ),
]
"""Bounds of shape that are not the defaults, one an option."""


def read_bounds(settings: Sequence[str]) -> ShapeBounds:
    """Return the default bounds of shape with some replaced.

    Raises:
        SpecError: an unknown bound, or a value that it cannot have.
    """
    from dataclasses import replace

    from composer.language.load import overridden
    from composer.language.schema.shape_bounds import ShapeBounds
    from composer.language.validation.validate import build
    from composer.settings.errors import SpecError
    from composer.settings.tree import Node, Place

    try:
        bounds = build(ShapeBounds, overridden(Node({}, Place("--bound")), settings))
        if isinstance(bounds, ShapeBounds):
            return bounds
        raise SpecError(bounds)
    except SpecError as error:
        named = (replace(each, file=each.file.replace("--set", "--bound", 1)) for each in error.faults)
        raise SpecError(list(named)) from None


KernelChoice: TypeAlias = Annotated[
    Literal["auto", "reference", "fused"],
    typer.Option(
        help="auto: the best kernel that fits; reference: plain PyTorch; fused: fail where none fits."
    ),
]
"""Which kernels may run."""

CompileChoice: TypeAlias = Annotated[
    Literal["auto", "on", "off"],
    typer.Option(
        "--torch-compile",
        help="Run torch.compile on the code between custom kernels; auto does so for long runs on a GPU.",
    ),
]
"""Whether torch.compile is used."""

GraphChoice: TypeAlias = Annotated[
    Literal["auto", "on", "off"],
    typer.Option(
        "--cuda-graph", help="Replay steps from CUDA graphs; auto does so for long runs on one GPU."
    ),
]
"""Whether steps are replayed from CUDA graphs."""
