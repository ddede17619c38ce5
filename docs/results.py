"""Measure the arms of docs/experiments.md on hop: accuracy at the hardest k, late in training and at its end.

`python docs/results.py FOLDER [ARM ...]` trains each arm at three seeds in FOLDER, about 3 minutes a
run on one thread; stopped and started again, it goes on.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from composer import load
from composer.training.run import run_training

SPECS = Path(__file__).parents[1] / "specs"
ARMS = {
    "dreamer-tiny": ["train.lr=1e-2"],
    "dreamer-tiny:1": ["train.lr=5e-3", "stages.0.recur=1"],
    "recurrent-tiny": ["train.lr=5e-3"],
    "untied-params-tiny": ["train.lr=1e-2"],
    "untied-flops-tiny": ["train.lr=1e-2"],
}
SEEDS = 3
PART = 1_800_000


def measure(arm: str, seed: int, folder: Path) -> tuple[float, float]:
    """Return the accuracy at k = 4 after `PART` tokens and at the end."""
    spec = load(SPECS / f"{arm.partition(':')[0]}.yaml", [*ARMS[arm], f"train.seed={seed}"])
    out = folder / f"{arm.replace(':', '-')}-{seed}"
    part = run_training(spec, out, until_tokens=PART).metrics["accuracy_k4"]
    return part, run_training(spec, out).metrics["accuracy_k4"]


def main(folder: Path, arms: list[str]) -> None:
    """Print one row for each arm: both accuracies of every seed."""
    torch.set_num_threads(1)
    for arm in arms or ARMS:
        accuracies = [measure(arm, seed, folder) for seed in range(SEEDS)]
        for what, values in zip(("60 %", "end"), zip(*accuracies, strict=True), strict=True):
            print(
                f"{arm:20} {what:5} {sum(values) / SEEDS:.3f}  {' '.join(f'{v:.4f}' for v in values)}",
                flush=True,
            )


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
