"""What a trained run loses where generation keeps fewer recurrent steps: `python docs/cache_policies.py RUN`.

Held-out sequences go through token by token, each beside what is kept of those before it.
"""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path

import torch

from composer.module.generates import decoder
from composer.module.generation.cache_policy import Cache
from composer.module.model import ComposedModel
from composer.module.scores import Scores
from composer.training.data.datamodule import datamodule
from composer.training.score import read

BATCHES = 4


@torch.no_grad()
def scores_of(model: ComposedModel, batches: list[dict[str, torch.Tensor]], cache: Cache) -> dict[str, float]:
    """Return loss, accuracy and other metrics over batches."""
    scores = Scores(model.spec)
    for batch in batches:
        tokens = batch["tokens"]
        decode = decoder(model, tokens.shape[1], cache=cache)
        logits = torch.stack([decode(token) for token in torch.split(tokens, 1, 1)], 1)
        scores.add(logits, batch["targets"], batch["group"])
    return scores.take(lambda value, **_: value)


def main() -> None:
    """Print a row for each cache."""
    model = read(Path(sys.argv[1]), "best").model().cpu().eval()
    batches = [*islice(datamodule(model.spec).val_dataloader(), BATCHES)]
    print("| cache | bytes per token | loss | accuracy |\n| --- | --- | --- | --- |")
    caches: list[Cache] = ["full", {"budget": 3}, {"budget": 2}, "last_step"]
    for cache in caches:
        scores = scores_of(model, batches, cache)
        size = model.cache_bytes_per_token(cache)
        print(f"| `{cache}` | {size:,} | {scores['loss']:.3f} | {scores['accuracy']:.1%} |")


if __name__ == "__main__":
    main()
