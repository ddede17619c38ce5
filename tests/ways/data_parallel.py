"""Specs trained on two ranks, by DDP and by shards: what differs from one process."""

import json
import traceback
import warnings
from datetime import timedelta

import torch
from models import close, tokens_for
from processes import run_all
from strategies import make
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from composer.module.shard import shard
from composer.testing.modes import FAR, batch_wide, begun, trained

RANKS = 2
ROWS = 4


class Loss(nn.Module):
    """The loss of a model as what a wrapper calls."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, tokens, targets, steps):
        return self.model.loss(tokens, targets, steps)


def differences(specs, folder, seconds=280, kernels=False):
    """Map the numbers of those (way, plain spec) that differ on two ranks, or fail, to what is wrong.

    With `kernels` models are planned for a GPU, and Triton interprets their kernels.
    """
    calls = ((_rank, rank, specs, folder, kernels) for rank in range(RANKS))
    assert run_all(*calls, seconds=seconds) == [0] * RANKS
    return json.loads((folder / "faults").read_text())


def _plan_for_a_gpu():
    """Have this process choose the kernels of a GPU, which add up gradients of weights in fp32 themselves."""
    import blocks.depth_attention.fused
    import blocks.primitives.fused
    from blocks.ir.kernel import Target
    from blocks.kernels.tensors import DTYPES
    from composer.module import model

    for fused in (blocks.depth_attention.fused, blocks.primitives.fused):
        fused.fits = lambda *tensors: all(each.dtype in DTYPES for each in tensors)
    real = model.target_of
    model.target_of = lambda weight: Target("cuda", real(weight).dtype)


def _rank(rank, specs, folder, kernels):
    torch.set_num_threads(1)
    if kernels:
        _plan_for_a_gpu()
    warnings.simplefilter("ignore")
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meet",
        rank=rank,
        world_size=RANKS,
        timeout=timedelta(seconds=60),
    )
    mesh = init_device_mesh("cpu", (RANKS,))
    faults = {number: fault for number, each in enumerate(specs) if (fault := _fault(*each, rank, mesh))}
    if rank == 0:
        (folder / "faults").write_text(json.dumps(faults))
    distributed.destroy_process_group()


def _fault(way, plain, rank, mesh):
    """Return what is wrong on any rank, or ""."""
    faults_of_ranks = [None] * RANKS
    try:
        mine = ""
        _compare(way, make(plain), rank, mesh)
    except Exception as error:
        mine = f"rank {rank}: {str(error) or traceback.format_exc()}"
    distributed.all_gather_object(faults_of_ranks, mine)
    return "\n".join(filter(None, faults_of_ranks))


def _compare(way, spec, rank, mesh):
    tokens = tokens_for(spec, ROWS)
    targets = tokens.roll(1, 1)
    expected = _alone(spec, tokens) if not batch_wide(spec) else None
    model = begun(spec)
    steps = model.draw_steps(1, rows=ROWS // RANKS) or None
    part = slice(rank * ROWS // RANKS, (rank + 1) * ROWS // RANKS)
    if way == "DDP":
        run = DistributedDataParallel(Loss(model))
    else:
        shard(model, mesh)
        run = Loss(model)
    # after the first pass what DDP waits for in vain is an error
    for number in range(2):
        model.randomness.step = 0
        run.zero_grad()
        run(tokens[part], targets[part], steps).backward()
        by_name = {
            name: _whole(each.grad) for name, each in model.named_parameters() if each.grad is not None
        }
        assert all(each.isfinite().all() for each in by_name.values()), f"pass {number}: not finite"
        if expected is not None:
            close(by_name, expected, FAR)


def _alone(spec, tokens):
    world = distributed.get_world_size
    rank = distributed.get_rank
    distributed.get_world_size, distributed.get_rank = (lambda: 1), (lambda: 0)
    try:
        result = trained(begun(spec), tokens)
    finally:
        distributed.get_world_size, distributed.get_rank = world, rank
    del result["loss"]
    return result


def _whole(gradient):
    return gradient.full_tensor() if isinstance(gradient, DTensor) else gradient
