"""`composer bench`: a training step of what was compiled, against the same model written by hand."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from composer.cli.options import Set, SpecFile

if TYPE_CHECKING:
    from composer.bench.step import Row


def bench(
    file: SpecFile,
    settings: Set = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds, in each of which everyone trains a step.")] = 20,
    out: Annotated[
        str | None,
        typer.Option("--json", metavar="FILE", help="Write all figures here, too.", show_default=False),
    ] = None,
) -> None:
    """Time a training step side by side with the same model written by hand in plain PyTorch.

    A step is forward, backward and AdamW on one micro-batch of the spec, on the GPU where there is one (in
    bf16), else on the CPU. SPEC has to be of the form that is written by hand: one `recur` stage of sequence,
    depth and expert attention. The hand-written model computes the same; it stands in
    `composer/bench/handwritten.py`.
    """
    import json

    from composer.bench.machine import machine
    from composer.bench.step import bench_step
    from composer.cli.files import write
    from composer.cli.result import columns
    from composer.spec.load import load

    spec = load(file, settings or ())
    rows = bench_step(spec, rounds, lambda text: print(f"note: {text}", file=sys.stderr))
    about = {"spec": spec.name, "rounds": rounds, **machine()}
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    print("\n".join(columns([_HEAD, *map(_cells, rows)])))
    if out is not None:
        write(out, json.dumps({**about, "rows": [_plain(row) for row in rows]}, indent=1) + "\n")


_HEAD = ("", "step", "tokens/s", "model FLOP/s", "peak", "time against composer")


def _cells(row: Row) -> tuple[str, ...]:
    from composer.costs.units import bytes_text, count_text, seconds_text

    peak = "" if row.peak is None else bytes_text(row.peak)
    return (
        row.name,
        seconds_text(row.seconds),
        count_text(row.tokens),
        count_text(row.flops),
        peak,
        str(row.against),
    )


def _plain(row: Row) -> dict[str, object]:
    ratio = {"middle": row.against.middle, "low": row.against.low, "high": row.against.high}
    return {**vars(row), "against": ratio}
