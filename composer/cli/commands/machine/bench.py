"""`composer bench`: kernels and training steps beside ordinary PyTorch and the hardware's limits."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from composer.cli.terminal.options import Set

if TYPE_CHECKING:
    from typing import Any

    from composer.bench.measuring.records import Part
    from composer.bench.measuring.setting import Setting
    from composer.bench.run import Measure

PANEL = "Models and kernels"
EXAMPLE = "composer bench specs/dreamer-tiny.yaml --rounds 10"


def bench(
    file: Annotated[
        str | None,
        typer.Argument(
            metavar="[SPEC]", help="A spec whose own training step is timed instead.", show_default=False
        ),
    ] = None,
    settings: Set = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds, in each of which everyone runs once.")] = 20,
    only: Annotated[
        str,
        typer.Option(
            metavar="PARTS",
            help="Only these, such as depth,step: depth, routing, step, graph, attention, loss, kernels.",
            show_default=False,
        ),
    ] = "",
    out: Annotated[
        str | None,
        typer.Option("--json", metavar="FILE", help="Write all figures here, too.", show_default=False),
    ] = None,
    picture: Annotated[
        str | None,
        typer.Option(metavar="FILE.svg", help="Draw them, as SVG.", show_default=False),
    ] = None,
    tune: Annotated[
        bool,
        typer.Option(
            "--tune",
            help="Try tiles for the kernels on this GPU instead, and print the best. With --json FILE "
            "the same call resumes, and a patch next to FILE (.patch) puts them into their tables.",
        ),
    ] = False,
) -> None:
    """Time kernels and training steps side by side with ordinary PyTorch, and with what the hardware allows.

    On a GPU the sizes are those that goals are set for, in bf16, and take some minutes; on a CPU the same
    code runs at small sizes. Copies and products are measured in the same run, and floors are computed from
    them. With SPEC it is the training step of that spec (forward, backward and AdamW on one micro-batch)
    against the same model by hand; SPEC has to be of the form that is written there: one `recur` stage of
    sequence, depth and expert attention. What is measured, and how, stands in `docs/performance.md`.
    """
    if tune and (file or only or picture):
        raise typer.BadParameter("--tune goes with --rounds and --json alone")
    if file and only:
        raise typer.BadParameter("a SPEC has one part, its step; leave --only away")
    if settings and not file:
        raise typer.BadParameter("--set needs a SPEC")
    if picture and not picture.endswith(".svg"):
        raise typer.BadParameter("expected a file that ends in .svg", param_hint="--picture")
    measures, title = _measures(file, settings, only)
    setting = _setting(rounds)
    if tune:
        _tune(setting, out)
        return
    _bench(measures, title, setting, out, picture)


def _measures(
    file: str | None, settings: list[str] | None, only: str
) -> tuple[list[tuple[str, Measure]], str]:
    """Return the requested parts, and the name of the model that they measure."""
    if file is not None:
        from composer.language.load import load

        spec = load(file, settings or ())
        from functools import partial

        from composer.bench.parts.step import checked, of_spec

        return [("step", partial(of_spec, checked(spec)))], spec.name
    from composer.bench.run import PARTS, chosen

    try:
        names = chosen(only)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--only") from None
    return [(name, PARTS[name]) for name in names], "all parts" if len(names) == len(PARTS) else only


def _setting(rounds: int) -> Setting:
    from composer.bench.measuring.setting import here

    return here(rounds, note=lambda text: print(f"note: {text}", file=sys.stderr))


def _bench(
    measures: list[tuple[str, Measure]], title: str, setting: Setting, out: str | None, picture: str | None
) -> None:
    import json
    import time
    from datetime import UTC, datetime

    from composer.bench import report
    from composer.bench.measuring import records
    from composer.bench.measuring.machine import machine
    from composer.bench.picture import draw
    from composer.bench.run import run
    from composer.cli.terminal.files import write
    from composer.costs.base.units import count_text

    about: dict[str, Any] = {
        "of": title,
        "begun": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["composer", *sys.argv[1:]]),
        "rounds": setting.rounds,
        "full_size": setting.full,
        "dtype": setting.target.dtype,
        "machine": machine(),
        "rates": setting.rates._asdict(),
    }
    print(", ".join(f"{name} {value}" for name, value in about["machine"].items()))
    size = "full size" if setting.full else "small sizes, which no goals are set for"
    print(f"{title}: {setting.rounds} rounds, {setting.target.dtype}, {size}")
    rates = setting.rates
    print(f"copy {count_text(rates.copy)}B/s, product {count_text(rates.product)}FLOP/s, in this run")
    print()
    printed: dict[int, int] = {}

    def keep(parts: list[Part], finished: bool = False) -> None:
        if out is not None:
            write(out, json.dumps(records.as_json(about, parts, finished), indent=1) + "\n")

    def done(parts: list[Part]) -> None:
        keep(parts)
        number, part = len(parts), parts[-1]
        text = [] if number in printed else [part.name]
        text += report.cases(part.rows[printed.get(number, 0) :])
        printed[number] = len(part.rows)
        text += report.ending(part) if part.complete else ()
        print("\n".join(text), flush=True)

    begun = time.perf_counter()
    parts = run(measures, setting, done)
    keep(parts, finished=True)
    if goals := [*report.goals(parts)]:
        print("\n".join(["goals", *goals]))
    print(f"took {time.perf_counter() - begun:.0f} s")
    if picture is not None:
        write(picture, draw(parts, about))


def _tune(setting: Setting, out: str | None) -> None:
    from pathlib import Path

    from composer.bench.measuring.machine import machine
    from composer.bench.measuring.pairs import DeviceLost
    from composer.bench.tile_tables import TunedTile, as_json, as_rows, patch, read_json
    from composer.bench.tune import tuned
    from composer.cli.terminal.files import write

    about = machine()
    device = ", ".join(f"{name} {about[name]}" for name in ("device", "torch", "triton"))
    before = [] if out is None else read_json(Path(out))
    rows, measured = before, list[TunedTile]()
    try:
        for each in tuned(setting, known={(row["table"], row["shape"]) for row in before}):
            measured.append(each)
            print(each, flush=True)
            rows = as_rows(measured, before)
            if out is not None:
                # at once, so that an interrupted call has results
                write(out, as_json(rows))
                write(str(Path(out).with_suffix(".patch")), "".join(patch(rows, device)))
    except DeviceLost as error:
        print(f"# ended early, the GPU takes no more work in this process, after: {error}")
    print("".join(patch(rows, device)))
