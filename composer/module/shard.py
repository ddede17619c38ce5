"""Shards weights over the ranks of a run (FSDP2)."""

from __future__ import annotations

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

from composer.module.emission.stage import Stage


def shard(model: nn.Module, mesh: DeviceMesh) -> None:
    """Shard the weights of a composed model over a one-dimensional mesh, unless they are sharded already.

    The unit that is gathered and freed is a stage if its steps share their weights, which are then gathered
    once for all steps; otherwise, or if a stage has weights that are used before its steps, it is one layer.
    Nested stages belong to the unit around them. Weights outside of all units stay gathered from the forward
    pass to the end of the backward pass.
    """
    if isinstance(model, FSDPModule):
        return
    for stage in _outermost(model):
        for part in [stage] if stage.loop.tied and not _has_own_weights(stage) else stage.sets():
            part.sharded = True
            fully_shard(part, mesh=mesh)
    fully_shard(model, mesh=mesh)
    register_fsdp_forward_method(model, "_losses")


def _outermost(module: nn.Module) -> list[Stage]:
    if isinstance(module, Stage):
        return [module]
    return [stage for child in module.children() for stage in _outermost(child)]


def _has_own_weights(stage: Stage) -> bool:
    return any(not name.startswith("step.") for name, _ in stage.named_parameters())
