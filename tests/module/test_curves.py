"""Training by kernels and by plain PyTorch goes the same way: 300 steps on `hop`, on a CPU 150."""

from contextlib import nullcontext

import pytest
import torch
from torch.nn.utils import clip_grad_norm_

from composer.language.load import loads
from composer.module.model import ComposedModel
from composer.training.data.datamodule import datamodule

STEPS = 300
SPEC = """
schema: 1
name: curve
model: {width: 32, vocab: 16, context: 24}
blocks:
  seq: {type: sequence_attention, heads: 2, kv_heads: 1, qk_norm: true}
  depth: {type: depth_attention, heads: 2, kv_heads: 1}
  expert: {type: expert_attention, experts: 4, active: 2, hidden: 32}
stages: [{recur: 3, step: [seq, depth, expert]}]
train:
  data: {task: hop, length: 24, symbols: 4, hops: 2}
  tokens: 115200
  batch_tokens: 384
"""


def curve(device, steps, **how):
    """Return the loss of each step."""
    model = ComposedModel(loads(SPEC, "curve.yaml"), **how).to(device).train()
    made = model.configure_optimizers()
    optimizer, schedule = made["optimizer"], made["lr_scheduler"]["scheduler"]
    data = datamodule(model.spec)
    data.setup("fit")
    losses = []
    for _, batch in zip(range(steps), data.train_dataloader(), strict=False):
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.bfloat16) if device == "cuda" else nullcontext():
            loss = model.loss(batch["tokens"].to(device), batch["targets"].to(device))
        loss.backward()
        clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        model.update_expert_balance()
        schedule.step()
        losses.append(loss.detach())
    return torch.stack(losses).cpu()


@pytest.mark.parametrize("kind", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.filterwarnings("ignore:.*lr_scheduler.step")
def test_curves_stay_together(kind):
    steps = STEPS if kind == "cuda" else STEPS // 2
    kernels, plain = curve(kind, steps), curve(kind, steps, kernels="reference")
    assert len(plain) == steps
    # rounding grows from step to step; a wrong gradient shows at once
    early = 0.02 if kind == "cpu" else 0.1
    assert (kernels - plain)[:100].abs().max() < early
    middles = [losses[-50:].mean() for losses in (kernels, plain)]
    assert abs(middles[0] - middles[1]) < 0.05
    assert middles[1] < 0.6 * plain[0]
