"""Weights sharded over the ranks of a run (FSDP2): each holds a part, and all of a module's while it runs."""

from __future__ import annotations

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

from composer.module.emission.stage import Stage


def shard(model: nn.Module, mesh: DeviceMesh) -> None:
    """Shard the weights of a composed model over a one-dimensional mesh, if they are not.

    What is gathered and freed at once is a whole stage where its steps share their weights, so that these are
    gathered once for all steps; else one layer, and so where a stage has weights that are used before its
    steps. What stages are nested inside goes with it, and what is in no layer stays gathered from the forward
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
