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
ROWS = 8
"""Of the batch that is learned."""


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
    tokens, targets = batch["tokens"][:ROWS], batch["targets"][:ROWS]
    losses = []
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = model.loss(tokens, targets, steps=model.draw_steps(step, rows=len(tokens)))
        loss.backward()
        optimizer.step()
        model.update_expert_balance()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
