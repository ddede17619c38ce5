"""Helpers of losses that read the state after each step of the last stage. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator

from blocks.base.builder import Builder
from blocks.base.config import Problem
from blocks.base.wiring import Site
from blocks.ir.operation import Value
from blocks.wiring.loss import Loss, ModelEnd


def unread_steps(site: Site, loss: Loss) -> Iterator[Problem]:
    """Yield why a loss cannot read the state of each step of the last stage."""
    stage = site.last_stage
    if stage is None:
        return
    if stage.steps == 1:
        yield Problem("", "last, since the last stage has a single step", loss.plain())
    if stage.varies:
        yield Problem("", "last, since training varies the number of steps of the last stage", loss.plain())
    for option in stage.wiring.values():
        if option.changes_result:
            got = f"{option.key}: {option.name}, which changes that state"
            yield Problem("", "a last stage that returns the state after its last step", got)


def normed_states(build: Builder, end: ModelEnd, normed: Value) -> Value:
    """Apply the final norm of `normed` to the state of each step."""
    from blocks.primitives.each_step import EachStep

    norm = build.graph.node(normed.node).op
    return build.tied("loss.norm", EachStep(norm, end.steps), end.collected["state"], of=normed.node)
