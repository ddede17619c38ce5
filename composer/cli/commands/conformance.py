"""`composer conformance`: the conformance suites of blocks, wiring options, tasks, samplers and stores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from composer.cli.terminal.options import Set

if TYPE_CHECKING:
    from composer.testing.run import Suite

PANEL = "Models and kernels"
EXAMPLE = "composer conformance my_package.shift_mixing:ShiftMixing"


def conformance(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="Its name; of an option also with its key, as in residual.scale. For a block, an option or "
            "a task also package.module:Class, for a block or a task its folder; for a store the URL of an "
            "empty database, or `folder`.",
            show_default=False,
        ),
    ],
    kind: Annotated[str, typer.Option(help="What it is: block, wiring, task, sampler, store.")] = "block",
    settings: Set = None,
) -> None:
    """Check a block, wiring option, task, sampler or store, of this package or of another.

    A block is checked in all of its options: causality, nothing left between passes, kernels against
    references, shapes and precisions of every value, inputs left alone, parameters, FLOPs, saved bytes and
    peak memory as declared, gradients. A wiring option is checked in the same ways, and: hashes, show and
    diff tell it, no field is ignored, recomputation, accumulation, bf16 autocast, torch.compile and other
    numbers of steps change nothing. A task, with fields given by `--set hops=2`: batches are functions of
    seed and number, train and eval never meet, ids and groups are as declared. A sampler: feasible new
    points, seeds, resumption, two objectives. A store: records, locks, leases, the study, a killed worker.
    Ends with 1 if any check fails.
    """
    from blocks.base.entry_points import entry_points
    from composer.settings.errors import listed
    from composer.testing.find import UnknownName

    suites = {point.name: point for point in entry_points("composer.conformance")}
    if kind not in suites:
        raise typer.BadParameter(f"--kind: expected {listed(suites)}, got {kind!r}")
    suite: Suite = suites[kind].load()
    try:
        findings = suite(name, settings or ())
    except UnknownName as error:
        raise typer.BadParameter(str(error)) from None
    failed = count = 0
    example = name
    for finding in findings:
        count += 1
        failed += bool(finding.fault)
        example = finding.example
        if finding.fault:
            print(f"{finding.example}: {finding.check}: {finding.fault}", flush=True)
    example = example.partition(" ")[0]
    if failed:
        print(f"{example}: {failed} of {count} checks failed")
        raise typer.Exit(1)
    print(f"{example}: all {count} checks passed")
