"""FLOPs as torch counts them while a model runs, and as they are declared for the same convention."""

import torch
from models import tokens_for
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import composer
from composer.costs.count import count


def grouped(a, b, *rest, out_shape=None, **named):
    """[m, k] x [groups, k, n] is 2 m k n; [m, k] x [k, n], cut into groups along k, is the same."""
    return 2 * a[0] * a[1] * b[-1]


def counted(spec, batch=2):
    """Return forward and backward FLOPs of one training step, counted by torch as it runs."""
    model = composer.compile(spec)
    tokens = tokens_for(spec, batch)
    formulas = {torch.ops.aten._grouped_mm: grouped}
    with (
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False, custom_mapping=formulas) as counter,
    ):
        loss = model.loss(tokens, tokens)
        forward = counter.get_total_flops()
        loss.backward()
    return forward, counter.get_total_flops() - forward


def declared(spec, batch=2):
    """Return the same as declared, less the elementwise products of depth attention."""
    forward = backward = 0.0
    for row in count(spec, full_mask=True).by_operation:
        block = spec.blocks.get(row.block)
        if block is not None and block.type == "depth_attention" and row.place.endswith("attend"):
            continue
        forward, backward = forward + row.share.forward, backward + row.share.backward
    tokens = batch * spec.model.context
    return forward * tokens, backward * tokens
