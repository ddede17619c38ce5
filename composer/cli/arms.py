"""`composer arms`: the matched comparison that a depth-recurrent spec has to stand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from composer.cli.options import Set, SpecFile

if TYPE_CHECKING:
    from composer.costs.arms import Arm

_NOTE = (
    "Caps are left out and nothing is recomputed. Dense layers that recur use every parameter at every step, "
    "so they cannot have the parameters of experts at their FLOPs: such arms are matched in the other "
    "measures, told here, and not written."
)


def arms(
    file: SpecFile,
    settings: Set = None,
    out: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER", help="Where specs and residuals go. Default: NAME-arms.", show_default=False
        ),
    ] = None,
) -> None:
    """Write the arms of a comparison, each matched to SPEC in parameters, FLOPs per token and memory.

    dr-da: recurrent with depth attention. dr: without it. untied: as many layers with weights of their own.
    prelude-core-coda: own layers before and after a recurrent core. And each with dense layers for experts,
    where such a one exists at these costs. Beside the specs stand residuals.md and residuals.csv. Ends with 1
    where an arm that is not dense could not be matched.
    """
    from pathlib import Path

    from composer.cli.files import make_folder, write
    from composer.cli.result import columns
    from composer.costs.arms import arms as derived
    from composer.costs.residuals import csv, markdown, percent, verdict
    from composer.spec.load import load
    from composer.spec.show import resolved_yaml

    spec = load(file, settings or ())
    found = derived(spec)
    folder = Path(out or f"{spec.name}-arms")
    make_folder(folder)
    for arm in found:
        if arm.match.holds:
            write(str(folder / f"{arm.name}.yaml"), _comment(arm) + resolved_yaml(arm.match.spec))
    write(str(folder / "residuals.csv"), csv(found))
    write(str(folder / "residuals.md"), markdown(spec, found, _NOTE))
    measures = [residual.measure for residual in found[0].match.residuals]
    rows = [(arm.name, *(percent(r.percent) for r in arm.match.residuals), verdict(arm)) for arm in found]
    print("\n".join(columns([("arm", *measures, "matched"), *rows])))
    print(f"written to {folder}")
    if not all(arm.match.holds or arm.optional for arm in found):
        raise typer.Exit(1)


def _comment(arm: Arm) -> str:
    moves = ", ".join(map(str, arm.match.moves)) or "nothing"
    return f"# {arm.about}; changed to match: {moves}\n"
