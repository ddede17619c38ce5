"""`composer conformance`: does a block hold what every block has to hold?"""

from __future__ import annotations

from typing import Annotated

import typer

PANEL = "Models and kernels"
EXAMPLE = "composer conformance my_package.shift_mixing:ShiftMixing"


def conformance(
    block: Annotated[
        str,
        typer.Argument(
            metavar="BLOCK",
            help="A type, package.module:Class, or the folder of a block.",
            show_default=False,
        ),
    ],
) -> None:
    """Check a block, of this package or of another, in all of its options.

    Causality, nothing left between passes, kernels against references, shapes and precisions of every
    value, inputs left alone, parameters, FLOPs, saved bytes and peak memory as declared, gradients.
    Ends with 1 if anything does not hold.
    """
    from composer.testing.find import UnknownBlock, find_block

    try:
        config = find_block(block)
    except UnknownBlock as error:
        raise typer.BadParameter(str(error)) from None
    from composer.testing.run import conformance as findings

    failed = count = 0
    for found in findings(config):
        count += 1
        failed += bool(found.fault)
        if found.fault:
            print(f"{found.example}: {found.check}: {found.fault}", flush=True)
    kind = config.model_fields["type"].default
    if failed:
        print(f"{kind}: {failed} of {count} checks do not hold")
        raise typer.Exit(1)
    print(f"{kind} holds all {count} checks")
