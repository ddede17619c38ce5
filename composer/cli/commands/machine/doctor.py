"""`composer doctor`: the devices of this machine, and whether every kernel is correct on it."""

from __future__ import annotations

import typer

PANEL = "Models and kernels"
EXAMPLE = "composer doctor"


def doctor() -> None:
    """Check the machine: versions, devices, torch.compile, and each kernel against its reference.

    Every fused kernel runs one tile on the GPU and is compared with plain PyTorch. Where one is wrong, the
    exit code is 1; training goes on without it, and warns.
    """
    from composer.bench.doctor import compiler, devices, kernels, versions

    findings = [*versions(), *devices(), compiler(), *kernels()]
    width = max(len(each.name) for each in findings)
    for each in findings:
        print(f"{each.name:<{width}}  {each.text}")
    if any(each.wrong for each in findings):
        raise typer.Exit(1)
