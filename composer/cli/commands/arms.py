"""`composer arms`: the matched baselines of a depth-recurrent spec."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from composer.cli.terminal.options import Bound, Set, SpecFile
from composer.measures.registry import MAIN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from composer.costs.matching.arms import Arm
    from composer.costs.matching.suggest import Suggestion
    from composer.language.schema.spec import Spec

PANEL = "Costs"
EXAMPLE = "composer arms specs/dreamer-small.yaml --out arms"
_NOTE = "Caps are left out and nothing is recomputed."


def arms(
    file: SpecFile,
    settings: Set = None,
    out: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER", help="Where specs and residuals go. Default: NAME-arms.", show_default=False
        ),
    ] = None,
    on: Annotated[
        str,
        typer.Option("--on", metavar="MEASURE,..", help="What is matched, as for `composer match`."),
    ] = ",".join(MAIN),
    bound: Bound = None,
    suggest: Annotated[
        bool,
        typer.Option(
            "--suggest",
            help="Where an arm cannot be matched, solve for changes of SPEC with which all can; "
            "takes several times as long.",
        ),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print plain JSON.")] = False,
) -> None:
    """Write the arms of a comparison, each matched to SPEC in parameters, FLOPs per token and memory.

    dr-da: recurrent with depth attention. dr: without it. untied: as many layers with weights of their own.
    untied-attnres: these with attention residuals, the untied answer to depth attention. prelude-core-coda:
    own layers before and after a recurrent core. And each with dense layers for experts, which cannot have
    the parameters of experts at their FLOPs and are matched in the other budgets. Each arm is the shape
    nearest to its base within the bounds of shape (docs/costs.md). Matched arms are written, beside
    residuals.md and residuals.csv. Ends with 1 where an arm that is not dense could not be matched.
    """
    from pathlib import Path

    from composer.cli.commands.match import measure_names
    from composer.cli.terminal.files import make_folder, write
    from composer.cli.terminal.options import read_bounds
    from composer.costs.matching.arms import arms as derived
    from composer.costs.matching.residuals import csv, markdown
    from composer.costs.matching.suggest import suggestions
    from composer.language.description.show import resolved_yaml
    from composer.language.load import load

    spec, bounds, measures = load(file, settings or ()), read_bounds(bound or ()), measure_names(on)
    derived_arms = derived(spec, measures, bounds)
    folder = Path(out or f"{spec.name}-arms")
    make_folder(folder)
    for arm in derived_arms:
        if arm.usable:
            write(str(folder / f"{arm.name}.yaml"), _comment(arm) + resolved_yaml(arm.match.spec))
    write(str(folder / "residuals.csv"), csv(derived_arms))
    write(str(folder / "residuals.md"), markdown(spec, derived_arms, _NOTE))
    complete = all(arm.usable or arm.optional for arm in derived_arms)
    wanted = suggestions(spec, derived_arms, measures, bounds) if suggest and not complete else []
    if json:
        from json import dumps

        print(dumps(_plain(spec, derived_arms, wanted, bounds.model_dump()), indent=2))
    else:
        print("\n".join(_report(spec, derived_arms)))
        if not complete:
            print("\n".join(_advice(spec, wanted, asked=suggest)))
        print(f"written to {folder}")
    if not complete:
        raise typer.Exit(1)


def _report(spec: Spec, arms: Sequence[Arm]) -> list[str]:
    from composer.cli.terminal.result import columns
    from composer.costs.matching.residuals import changed_sizes, notes, paragraphs, table

    why = list(paragraphs(notes(spec, arms)))
    return [*columns(table(arms)), "", *changed_sizes(arms), *(["", *why] if why else [])]


def _advice(spec: Spec, advice: Sequence[Suggestion], *, asked: bool) -> list[str]:
    from composer.costs.base.units import amount

    if not asked:
        return ["", f"--suggest solves for changes of {spec.name} with which all arms can be matched"]
    if not advice:
        return ["", f"no change of the experts, active experts or steps of {spec.name} was found to help"]
    lines = ["", f"with any one of these changes of {spec.name} all arms can be matched:"]
    for each in advice:
        costs = (
            f"{name} {amount(name, before)} -> {amount(name, each.after[name])}"
            for name, before in each.before.items()
        )
        lines.append(f"  {', '.join(map(str, each.moves))}: {', '.join(costs)}")
    return lines


def _plain(
    spec: Spec, arms: Sequence[Arm], wanted: Sequence[Suggestion], bounds: dict[str, Any]
) -> dict[str, Any]:
    from composer.costs.matching.residuals import notes, plain

    return {
        "target": spec.name,
        "bounds": bounds,
        "arms": [
            {"arm": arm.name, "about": arm.about, "dense": arm.optional, **plain(arm.match)} for arm in arms
        ],
        "notes": notes(spec, arms),
        "suggestions": [
            {move.path: {"old": move.old, "new": move.new} for move in each.moves} for each in wanted
        ],
    }


def _comment(arm: Arm) -> str:
    from composer.costs.matching.residuals import changes, percent

    off = [residual for residual in arm.match.residuals if not residual.holds]
    missed = "".join(f"# not matched: {r.measure}, {percent(r.percent)}\n" for r in off)
    return (
        f"{missed}# {arm.about}; changed to match: {changes(arm.match)}\n"
        f"# distance {arm.match.distance:.2f} from the shape it was derived with\n"
    )
