"""`composer launches`: what a training step launches on a GPU, counted without one."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from composer.cli.terminal.options import Set
from composer.settings.errors import UserError

PANEL = "Models and kernels"
EXAMPLE = "composer launches specs/dreamer-tiny.yaml"


def launches(
    file: Annotated[
        str | None,
        typer.Argument(
            metavar="[SPEC]",
            help="The spec. Default: the model of 173M parameters that `composer bench` measures.",
            show_default=False,
        ),
    ] = None,
    settings: Set = None,
    by_hand: Annotated[
        bool, typer.Option("--by-hand", help="Count the same model written by hand beside it.")
    ] = False,
    machine_code: Annotated[
        bool,
        typer.Option(
            "--machine-code", help="Compile the Triton kernels that it launches, and show their code."
        ),
    ] = False,
    decode: Annotated[
        bool,
        typer.Option(
            "--decode",
            help="Count the step that generation replays for each new token instead.",
        ),
    ] = False,
    all_shapes: Annotated[
        bool,
        typer.Option(
            "--all-shapes",
            help="Show the code of all kernels at all shapes of benchmark and self-tests instead.",
        ),
    ] = False,
    device: Annotated[str, typer.Option(help="The GPU whose rates give the modelled time.")] = "h100",
) -> None:
    """Count launches, bytes and FLOPs of one micro-batch forward and backward on a GPU, without one.

    The model's own code runs on fake tensors, under autocast to bf16, with the kernels of a GPU of compute
    capability 9.0. An operator of PyTorch counts as one launch, and bytes as what each reads and writes. The
    modelled time is the sum over launches of bytes at the rate of copies or FLOPs at that of products, and at
    least 2 microseconds: no measurement. What a CUDA graph could not hold ends the command with the reason.

    With --machine-code, of each kernel's largest launch: registers of a thread and what it spills, warps
    alive on a multiprocessor, bytes of the widest load, bytes that a multiprocessor has in flight in a turn
    of the longest loop, instructions of a warp, and the time to issue them all beside that to move the bytes.

    With --all-shapes, the same for every kernel at every shape of `composer bench` at full size, of the
    self-tests, of depth attention with a window and of residual mixes; in parentheses, where a shape is
    launched first. Takes some minutes.
    """
    from composer.bench.measuring.spec import bench_spec
    from composer.bench.parts.step import BY_HAND, checked
    from composer.bench.rivals.handwritten import HandWritten, sizes
    from composer.cli.terminal.result import columns
    from composer.costs.time.devices import device as named
    from composer.language.load import load
    from composer.launches.machine_code import Compiled
    from composer.launches.step import decoding_launches, step_launches
    from composer.launches.table import by_code, by_contestant, by_kernel

    if all_shapes:
        if file or settings or by_hand or decode:
            raise UserError("--all-shapes: expected no spec, --set, --by-hand or --decode beside it")
        from composer.bench.kernel_shapes import machine_codes

        print("\n".join(columns(by_code(machine_codes()))))
        return
    at = named(device)
    spec = load(file, settings or ()) if file else bench_spec(True, 16, *(settings or ()))
    compiled = Compiled() if machine_code else None
    if decode and by_hand:
        raise UserError("--decode: expected no --by-hand, since models by hand do not generate")
    count = decoding_launches if decode else step_launches
    counts = {"composer": count(spec, watch=compiled)}
    if by_hand:
        ways = BY_HAND if file is None or checked(spec) else {}
        counts |= {
            name: step_launches(spec, partial(HandWritten, sizes(spec), way)) for way, name in ways.items()
        }
    print("\n".join(columns(by_contestant(counts, at))))
    print()
    print("\n".join(columns(by_kernel(counts["composer"], at))))
    if compiled is not None:
        print()
        codes = [*compiled.codes.values()]
        print("\n".join(columns(by_code(codes))) if codes else "launches no Triton kernels")
