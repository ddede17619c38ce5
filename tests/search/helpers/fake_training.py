"""Training that takes no time: what it measures is a function of the spec and the tokens."""

from __future__ import annotations

import csv
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from composer.language.description.show import resolved_yaml
from composer.language.schema.identity import run_hash
from composer.language.schema.spec import Spec
from composer.language.space import Space, load_space
from composer.training.folder.files import write_text
from search.testing.spaces import TEXT as SPACE
from search.testing.spaces import TWO as TWO
from search.trainer import Step, Trained

BASELINE = """\
schema: 1
name: rival
model: {width: 32, vocab: 8, context: 32}
blocks: {seq: {type: sequence_attention, heads: 2}, mlp: {type: feed_forward, hidden: 64}}
stages: [{stack: 2, step: [seq, mlp]}]
train: {data: {task: hop, length: 32, symbols: 4, hops: 2}, tokens: 8Ki, batch_tokens: 1Ki}
"""


def toy(folder: Path, *overrides: str, baseline: str = "") -> Space:
    """The toy space, rival.yaml beside it."""
    (folder / "space.yaml").write_text(SPACE + (f"  baselines: [{baseline}]\n" if baseline else ""))
    (folder / "rival.yaml").write_text(BASELINE)
    return load_space(folder / "space.yaml", overrides)


def board(folder: Path) -> list[dict[str, str]]:
    """The rows of a search's leaderboard."""
    with (folder / "leaderboard.csv").open() as file:
        return list(csv.DictReader(file))


def accuracy(spec: Spec, tokens: int) -> float:
    """Grows with the tokens towards a limit that depends on the spec."""
    limit = int(hashlib.sha256(run_hash(spec).encode()).hexdigest()[:6], 16) / 16**6
    return limit * tokens / (tokens + 2000)


class FakeTraining:
    """Trains in the folder's file `tokens`, which is its checkpoint; `calls` holds (folder, from, to)."""

    def __init__(self, fault: Callable[[Spec, int], None] = lambda spec, tokens: None) -> None:
        self.calls: list[tuple[str, int, int]] = []
        self.fault = fault

    def __call__(
        self, spec: Spec, folder: Path, until: int | None, report: Callable[[Step], None]
    ) -> Trained:
        assert spec.train is not None
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "tokens"
        start = int(path.read_text()) if path.exists() else 0
        end = spec.train.tokens if until is None else until
        report(Step(start))
        report(Step(end, 0.5))
        self.fault(spec, end)
        if start < end:
            self.calls.append((f"{folder.parent.name}/{folder.name}", start, end))
            with (folder.parent.parent / "work.log").open("a") as log:
                log.write(f"{folder.name} {start} {end}\n")
            write_text(folder / "spec.yaml", resolved_yaml(spec))
            write_text(folder / "best.ckpt", f"{run_hash(spec)} {end}")
            write_text(path, str(end))
        return Trained(end, {"accuracy": accuracy(spec, end), "loss": 1 - accuracy(spec, end)})


@dataclass(frozen=True)
class SlowTraining:
    """Fake training that a process can be sent: each piece takes `seconds`, and waits while `hold` exists."""

    seconds: float
    hold: Path

    def __call__(
        self, spec: Spec, folder: Path, until: int | None, report: Callable[[Step], None]
    ) -> Trained:
        path = folder / "tokens"
        start = int(path.read_text()) if path.exists() else 0
        end = time.monotonic() + self.seconds
        while time.monotonic() < end or self.hold.exists():
            report(Step(start, 0.5))
            time.sleep(0.02)
        return FakeTraining()(spec, folder, until, report)


AGAIN = ("search.seeds=3", "search.finalists=2", "search.lr_sweep=[0.5, 2]")


class Luck(FakeTraining):
    """Training whose result depends on the seed and the rate: best at `lr`, with luck in the seed."""

    def __init__(self, lr: float = 6e-3, fault=lambda spec, tokens: None) -> None:
        super().__init__(fault)
        self.lr, self.specs = lr, {}

    def __call__(self, spec, folder, until, report):
        result = super().__call__(spec, folder, until, report)
        self.specs[f"{folder.parent.name}/{folder.name}"] = spec
        luck = {0: 0.3, 1: 0.1, 2: -0.1, 3: 0.06}[spec.train.seed]
        same = spec.model_copy(update={"train": spec.train.model_copy(update={"lr": self.lr})})
        value = accuracy(same, result.tokens) + luck - 100 * abs(spec.train.lr - self.lr)
        result.metrics["accuracy"] = value
        return result


SMALL = """\
schema: 1
name: small
model: {width: {choice: [8, 16]}, vocab: 8, context: 16}
blocks:
  seq: {type: sequence_attention, heads: 2, kv_heads: {choice: [1, 2]}}
  mlp: {type: feed_forward, hidden: 16}
stages: [{recur: {int: [1, 3]}, step: [seq, mlp]}]
caps: {params: 1800}
train:
  data: {task: hop, length: 16, symbols: 4, hops: 1}
  tokens: 2Ki
  batch_tokens: 512
  lr: 1e-2
  eval: {tokens: 1Ki}
search:
  objectives: [{maximize: accuracy_k1}, {minimize: params}]
  trials: 2
  rungs: [1Ki]
"""
