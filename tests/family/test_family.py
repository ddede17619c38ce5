"""Every spec of `specs/family` is small, costed, and learns."""

from pathlib import Path

import pytest
import torch

import composer
from composer.costs.counting.plan import count
from composer.module.model import ComposedModel
from composer.training.data.datamodule import datamodule

FILES = sorted((Path(__file__).parents[2] / "specs" / "family").glob("*.yaml"))
STEPS = 5


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_a_spec_of_the_family_is_small_cites_its_paper_and_learns(path):
    assert "arXiv" in path.read_text(encoding="utf-8")
    spec = composer.load(path)
    costs = count(spec)
    assert costs.params < 1e6
    assert costs.train_memory.total > 0
    model = ComposedModel(spec).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    data = datamodule(spec)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    losses = []
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = model.loss(batch["tokens"], batch["targets"], steps=model.draw_steps(step))
        loss.backward()
        optimizer.step()
        model.update_expert_balance()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
