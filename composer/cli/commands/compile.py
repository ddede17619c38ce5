"""`composer compile`: the plan of a spec, and on request the code it is emitted as."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from composer.cli.terminal.options import KernelChoice, Set, SpecFile

PANEL = "Models and kernels"
EXAMPLE = "composer compile specs/nested.yaml --code"


def compile(
    file: SpecFile,
    settings: Set = None,
    code: Annotated[
        bool, typer.Option("--code", help="Print the PyTorch code of every step as well.")
    ] = False,
    kernels: KernelChoice = "auto",
    device: Annotated[
        Literal["cpu", "cuda"],
        typer.Option(help="What to plan for, in the spec's precision (auto on cuda: bf16-mixed)."),
    ] = "cpu",
) -> None:
    """Print the plan: each operation with its shape per token, its weights, its kernel and why.

    A value of shape 4x16 is a tensor [batch, sequence, 4, 16]. A model chooses its kernels again where it
    runs; there a kernel whose self-test fails (`composer doctor`) is left out.
    """
    from composer import load
    from composer.costs.counting.plan import make_plan
    from composer.costs.fitting.caps import check_caps
    from composer.graph.compile import target_on

    spec = load(file, settings or ())
    target = target_on(spec, device)
    plan = make_plan(spec)
    check_caps(plan)
    plan = plan.on(target, kernels)
    print(plan.text, end="")
    if code:
        from composer.module.emission.stage import source
        from composer.training.folder.build import build

        model = build(spec, kernels)
        model.choose(plan.target)
        for name, text in source(model):
            print(f"\n# {name}\n{text}", end="")
