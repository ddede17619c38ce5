"""`composer cost`: parameters, FLOPs, memory and caches of a spec, before a step is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from composer.cli.options import Set, SpecFile

if TYPE_CHECKING:
    from rich.table import Table

    from composer.costs.count import Costs
    from composer.spec.models import Spec


def cost(
    file: SpecFile,
    settings: Set = None,
    json: Annotated[bool, typer.Option("--json", help="Print plain JSON.")] = False,
    operations: Annotated[bool, typer.Option("--operations", help="One row for each operation.")] = False,
) -> None:
    """Count what a spec costs, by block and in total, and hold it against its caps.

    FLOPs are those of matrix products, causal attention counted as the pairs it really has.
    """
    from composer import load
    from composer.cli.console import console
    from composer.costs.count import count

    spec = load(file, settings or ())
    costs = count(spec)
    if json:
        from json import dumps

        print(dumps(costs.to_dict(), indent=2))
        return
    out = console()
    out.print(_by_operation(costs) if operations else _by_block(spec, costs))
    out.print(_totals(spec, costs))


def _by_block(spec: Spec, costs: Costs) -> Table:
    from composer.costs.units import count_text

    rows = (
        (name, share.params, share.active_params, share.forward, share.backward)
        for name, share in costs.by_block.items()
    )
    table = _table(f"{spec.name}, per token at {spec.model.context} tokens", ["block"])
    for name, *numbers in rows:
        table.add_row(name, *map(count_text, numbers))
    table.add_section()
    flops = costs.flops_per_token
    total = (costs.params, costs.active_params, flops.forward, flops.backward)
    table.add_row("total", *map(count_text, total), style="bold")
    return table


def _by_operation(costs: Costs) -> Table:
    from composer.costs.units import count_text

    table = _table(
        "operations that hold weights or multiply matrices", ["place", "operation", "block", "runs"]
    )
    for row in costs.by_operation:
        share = row.share
        if share.params or share.forward:
            numbers = (share.params, share.active_params, share.forward, share.backward)
            where = (row.place, row.operation, row.block, str(row.executions))
            table.add_row(*where, *map(count_text, numbers))
    return table


def _table(title: str, names: list[str]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in names:
        table.add_column(name)
    for name in ("params", "active", "FLOPs forward", "backward"):
        table.add_column(name, justify="right")
    return table


def _totals(spec: Spec, costs: Costs) -> Any:
    from rich import box
    from rich.table import Table

    from composer.costs.caps import excesses
    from composer.costs.units import amount, bytes_text, count_text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("measure", "value", "cap", ""):
        table.add_column(name, justify="right" if name in ("value", "cap") else "left")
    over = {excess.cap for excess in excesses(spec, costs)}
    for name in type(spec.caps).model_fields:
        value, cap = costs.measure(name), getattr(spec.caps, name)
        if value is not None:
            said = "" if cap is None else amount(name, cap)
            mark = "" if cap is None else "[red]over[/red]" if name in over else "[green]fits[/green]"
            table.add_row(name, amount(name, value), said, mark)
    memory = costs.train_memory
    table.add_section()
    for term, size in memory.terms.items():
        table.add_row(f"  {term}", bytes_text(size), "", f"of {count_text(memory.tokens)} tokens")
    return table
