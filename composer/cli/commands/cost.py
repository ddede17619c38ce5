"""`composer cost`: parameters, FLOPs, memory and caches of a spec, before a step is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from composer.cli.terminal.options import Set

if TYPE_CHECKING:
    from rich.table import Table

    from blocks.ir.graph import Graph
    from composer.costs.counting.count import Costs
    from composer.costs.counting.plan import Plan
    from composer.costs.time.roofline import StepTime
    from composer.language.schema.spec import Spec
    from composer.settings.errors import Fault

PANEL = "Costs"
EXAMPLE = "composer cost specs/dreamer-small.yaml --operations"
_WIDEST = 120


def cost(
    files: Annotated[
        list[str], typer.Argument(metavar="SPEC", help="Specs, YAML files.", show_default=False)
    ],
    settings: Set = None,
    json: Annotated[bool, typer.Option("--json", help="Print plain JSON.")] = False,
    operations: Annotated[bool, typer.Option("--operations", help="One row for each operation.")] = False,
    device: Annotated[
        str | None,
        typer.Option(help="Estimate the time of a training step on a device: h100, h200, a100, cpu, ..."),
    ] = None,
) -> None:
    """Count what a spec costs, by block and in total, and hold it against its caps.

    Of several specs it prints one table with a row for each; `--set` applies to all of them. FLOPs are those
    of matrix products, causal attention counted as the pairs it really has.
    """
    from composer.cli.terminal.console import console

    if len(files) > 1 and (operations or device):
        raise typer.BadParameter("expected one spec beside --operations or --device, got several")
    specs = _loaded(files, settings or ())
    if len(specs) > 1:
        _print_several(specs, json=json)
        return
    (spec,) = specs.values()
    plan, time = _plan_and_time(spec, device)
    if json:
        from json import dumps

        print(dumps(_plain(spec, plan) | ({"step": time.to_dict()} if time else {}), indent=2))
        return
    out = console()
    if time:
        out.print(_by_time(spec, str(device), time))
        return
    costs = plan.costs
    out.print(_by_operation(costs) if operations else _by_block(spec, costs))
    out.print(_totals(spec, costs, plan.graph))


def _loaded(files: Sequence[str], settings: Sequence[str]) -> dict[str, Spec]:
    """Load specs by their paths; the faults of all of them are reported at once."""
    from composer import load
    from composer.settings.errors import SpecError

    specs: dict[str, Spec] = {}
    faults: list[Fault] = []
    for file in files:
        try:
            specs[file] = load(file, settings)
        except SpecError as error:
            faults += error.faults
    if faults:
        raise SpecError(faults)
    return specs


def _plan_and_time(spec: Spec, device: str | None) -> tuple[Plan, StepTime | None]:
    from composer.costs.counting.plan import make_plan
    from composer.costs.time.devices import device as find
    from composer.costs.time.roofline import step_time

    plan = make_plan(spec)
    on = find(device) if device else None
    return plan, step_time(spec, plan.on_device(on.kind).graph, on) if on else None


def _plain(spec: Spec, plan: Plan) -> dict[str, Any]:
    from dataclasses import asdict

    from composer.costs.counting.checkpoint import checkpoint_size

    return {**plan.costs.to_dict(), "checkpoint": asdict(checkpoint_size(spec, plan.graph))}


def _print_several(specs: dict[str, Spec], *, json: bool) -> None:
    from composer.cli.terminal.console import console
    from composer.costs.counting.compare import cost_rows
    from composer.costs.counting.plan import make_plan

    plans = {file: make_plan(spec) for file, spec in specs.items()}
    if json:
        from json import dumps

        print(dumps({file: _plain(specs[file], plan) for file, plan in plans.items()}, indent=2))
        return
    labels, *rows = cost_rows([plan.costs for plan in plans.values()])
    table = _table(None, ["spec"], [label.replace(" ", "\n", 1) for label in labels])
    names = [spec.name for spec in specs.values()]
    for (file, spec), row in zip(specs.items(), rows, strict=True):
        table.add_row(spec.name if names.count(spec.name) == 1 else file, *row)
    out = console()
    # a narrow terminal folds lines, where the table would hide numbers
    out.width = max(out.width, _WIDEST)
    out.print(table)


def _by_block(spec: Spec, costs: Costs) -> Table:
    from composer.costs.base.units import count_text

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
    from composer.costs.base.units import count_text

    table = _table("operations with weights or matrix products", ["place", "operation", "block", "runs"])
    for row in costs.by_operation:
        share = row.share
        if share.params or share.forward:
            numbers = (share.params, share.active_params, share.forward, share.backward)
            where = (row.place, row.operation, row.block, str(row.executions))
            table.add_row(*where, *map(count_text, numbers))
    return table


def _by_time(spec: Spec, name: str, time: StepTime) -> Table:
    from composer.costs.base.units import count_text, seconds_text

    title = f"{spec.name}, a training step of {count_text(time.tokens)} tokens on {name}, at least"
    table = _table(title, ["place", "operation", "runs"], ["forward", "backward", "share", "bound by"])
    whole = time.seconds
    for row in sorted(time.rows, key=lambda row: -row.seconds):
        if row.seconds >= whole / 200:
            share = f"{100 * row.seconds / whole:.1f} %"
            times = (seconds_text(row.forward), seconds_text(row.backward), share, row.bound)
            table.add_row(row.place, row.operation, str(row.executions), *times)
    share = f"{100 * time.optimizer / whole:.1f} %"
    table.add_row("", "optimizer", "1", seconds_text(time.optimizer), "", share, "bytes")
    table.add_section()
    speed = f"{count_text(time.tokens / whole)} tokens/s"
    share = f"{100 * time.bytes_share:.0f} %"
    table.add_row("step", speed, "", seconds_text(whole), "", share, "bytes", style="bold")
    return table


_KINDS: tuple[tuple[Literal["hard", "soft"], str], ...] = (("hard", ""), ("soft", " soft"))
_COSTS = ("params", "active", "FLOPs forward", "backward")


def _table(title: str | None, names: list[str], numbers: Sequence[str] = _COSTS) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in names:
        table.add_column(name)
    for name in numbers:
        table.add_column(name, justify="right")
    return table


def _totals(spec: Spec, costs: Costs, graph: Graph) -> Any:
    from rich import box
    from rich.table import Table

    from composer.costs.base.units import amount, bytes_text, count_text
    from composer.costs.counting.checkpoint import checkpoint_size
    from composer.costs.fitting.caps import excesses
    from composer.measures.registry import MEASURES

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("measure", "value", "cap", ""):
        table.add_column(name, justify="right" if name in ("value", "cap") else "left")
    hard, soft = ({excess.cap for excess in excesses(spec, costs, kind)} for kind in ("hard", "soft"))
    for name in MEASURES:
        value = costs.measure(name)
        if value is not None:
            caps = [(limit, word) for kind, word in _KINDS if (limit := spec.caps.limit(name, kind))]
            said = ", ".join(f"{amount(name, limit)}{word}" for limit, word in caps)
            mark = "[red]over[/red]" if name in hard else "[yellow]over[/yellow]" if name in soft else ""
            mark = mark or ("[green]fits[/green]" if said else "")
            remark = MEASURES[name].at_words if costs.trained_steps else ""
            table.add_row(name, amount(name, value), said, " ".join(filter(None, (mark, remark))))
    left = checkpoint_size(spec, graph)
    if left.weights_file is not None:
        table.add_row("weights file", bytes_text(left.weights_file), "", "safetensors")
    table.add_row("checkpoint", bytes_text(left.resume_tensors), "", "weights, AdamW's state")
    for place, steps in costs.trained_steps.items():
        remark = f"in the mean, {steps.least} to {steps.most}"
        table.add_row(f"steps of {place} in training", f"{steps.expected:.4g}", "", remark)
    if costs.recompute_flops:
        remark = "per token, in the backward pass; see the plan"
        table.add_row("FLOPs run again", count_text(costs.recompute_flops), "", remark)
    memory = costs.train_memory
    table.add_section()
    table.add_row("at the peak of memory:", "", "", memory.moment)
    for term, size in memory.terms.items():
        table.add_row(f"  {term}", bytes_text(size), "", f"of {count_text(memory.tokens)} tokens")
    return table
