"""`composer diff`: the differences of two specs, and of their costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from composer.cli.terminal.options import Set, SpecFile

if TYPE_CHECKING:
    from rich.table import Table

    from composer.costs.counting.compare import Change
    from composer.language.description.diff import Difference
    from composer.language.schema.spec import Spec

PANEL = "Specs"
EXAMPLE = "composer diff specs/dreamer-tiny.yaml specs/recurrent-tiny.yaml"


def diff(
    file: SpecFile,
    other: Annotated[
        str | None,
        typer.Argument(
            metavar="[OTHER]",
            help="The spec to compare with. Default: the same file, to see the effect of `--set`.",
            show_default=False,
        ),
    ] = None,
    settings: Set = None,
    json: Annotated[bool, typer.Option("--json", help="Print plain JSON.")] = False,
) -> None:
    """Tell what differs between two specs, in words, and how that changes each cost.

    `--set` is laid over the second one. Names and caps are told apart from what is built and trained.
    Ends with 0 whether they differ or not.
    """
    from composer.costs.counting.compare import by_block, measures
    from composer.costs.counting.plan import count
    from composer.language.description.align import block_pairs
    from composer.language.description.diff import differences, relation
    from composer.language.load import load

    a, b = load(file), load(other or file, settings or ())
    changed = list(differences(a, b))
    costs = count(a), count(b)
    changes, blocks = measures(*costs), by_block(*costs, block_pairs(a, b))
    if json:
        from json import dumps

        print(dumps(_plain(a, b, relation(a, b), changed, changes, blocks), indent=2))
        return
    print(f"{a.name} and {b.name}: {relation(a, b)}")
    for line in _sections(changed):
        print(line)
    if changed:
        from composer.cli.terminal.console import console

        out = console()
        out.print(_measures(a, b, changes))
        out.print(_blocks(a, b, blocks))


def _sections(changed: list[Difference]) -> list[str]:
    lines = []
    for kind in dict.fromkeys(each.kind for each in changed):
        lines += ["", kind, *(f"  {each}" for each in changed if each.kind == kind)]
    return lines


def _measures(a: Spec, b: Spec, changes: list[Change]) -> Table:
    from composer.costs.base.units import amount

    table = _table(["measure", *_names(a, b), "change"])
    unit = ""
    for each in changes:
        unit = unit if each.term else each.name
        values = ("-" if n is None else amount(unit, n) for n in (each.before, each.after))
        table.add_row(f"  {each.name}" if each.term else each.name, *values, _percent(each))
    return table


def _blocks(a: Spec, b: Spec, blocks: dict[str, list[Change]]) -> Table:
    from composer.costs.base.units import count_text

    table = _table(["block", "", *_names(a, b), "change"], left=2)
    for name, changes in blocks.items():
        for number, each in enumerate(changes):
            label = {"forward": "FLOPs forward", "backward": "FLOPs backward"}.get(each.name, each.name)
            values = (count_text(n or 0) for n in (each.before, each.after))
            table.add_row("" if number else name, label, *values, _percent(each))
        table.add_section()
    return table


def _names(a: Spec, b: Spec) -> tuple[str, str]:
    return (a.name, b.name) if a.name != b.name else ("before", "after")


def _percent(change: Change) -> str:
    if change.percent is None:
        return "" if not change.before and not change.after else "new" if not change.before else "gone"
    return "" if change.percent == 0 else f"{change.percent:+.3g} %"


def _table(names: list[str], left: int = 1) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, name in enumerate(names):
        table.add_column(name, justify="left" if number < left else "right")
    return table


def _plain(
    a: Spec,
    b: Spec,
    relation: str,
    changed: list[Difference],
    changes: list[Change],
    blocks: dict[str, list[Change]],
) -> dict[str, Any]:
    from dataclasses import asdict

    from composer.language.schema.identity import arch_hash, run_hash

    def plain(change: Change) -> dict[str, Any]:
        return {"a": change.before, "b": change.after, "percent": change.percent}

    measures: dict[str, Any] = {}
    whole = ""
    for each in changes:
        if each.term:
            measures[whole].setdefault("terms", {})[each.name] = plain(each)
        else:
            whole = each.name
            measures[whole] = plain(each)
    return {
        "relation": relation,
        "specs": [{"name": s.name, "arch": arch_hash(s), "run": run_hash(s)} for s in (a, b)],
        "differences": [asdict(each) for each in changed],
        "measures": measures,
        "blocks": {name: {each.name: plain(each) for each in group} for name, group in blocks.items()},
    }
