"""What a spec or a space comes to: what is built, read, trained, capped or searched, as values to compare."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np
from fake_training import FakeTraining
from token_folders import write_tokens

from composer.costs.counting.plan import make_plan
from composer.costs.fitting.caps import excesses, warnings
from composer.costs.matching.shape import Limits
from composer.language.load import loads, read_text
from composer.language.schema.shape_bounds import ShapeBounds
from composer.language.schema.spec import Train
from composer.language.space import Space
from composer.testing.wiring import program
from composer.training.attached import make_callbacks
from composer.training.recorder import Recorder
from composer.training.run import run_training
from composer.training.trainer import backend_of, device_count
from search.progress.budget import accounts
from search.progress.spending import Spending
from search.run.study import run_search

Plain = dict[str, Any]
RUN: Plain = {
    "schema": 1,
    "name": "t",
    "model": {"width": 8, "vocab": 16, "context": 8},
    "blocks": {
        "s": {"type": "sequence_attention", "heads": 1},
        "f": {"type": "feed_forward", "hidden": 8},
    },
    "stages": [{"stack": 1, "step": ["s", "f"]}],
    "train": {
        "data": {"task": "hop", "length": 8, "symbols": 8, "hops": 1},
        "tokens": 640,  # 10 steps
        "batch_tokens": 64,
        "schedule": {"warmup": 0.2, "stable": 0.4, "decay": 0.4},
        "eval": {"every": 128, "tokens": 64},
        "checkpoint": {"every": 192},
        "devices": 1,
    },
}
"""A model whose training takes less than a tenth of a second."""
CORPUS = b'{"text": "one two three four five six", "other": "6 5 4 3 2 1"}\n' * 12


LANGUAGE: Plain = {
    "schema": 1,
    "name": "t",
    "model": {"width": 16, "vocab": 300, "context": 32},
    "blocks": {
        "s": {"type": "sequence_attention", "heads": 2},
        "f": {"type": "feed_forward", "hidden": 8},
        "d": {"type": "depth_attention", "heads": 2},
        "e": {"type": "expert_attention", "experts": 4, "active": 2, "hidden": 8},
    },
    "stages": [{"recur": 3, "step": ["s", "f", {"recur": 2, "step": ["s", "f", "d", "e"]}]}],
}
"""A model with blocks that read each other."""


def corpus(folder: Path) -> None:
    """Write texts and tokens where the specs of tests look for them, relative to `folder`."""
    for name, number in (("text", 3), ("elsewhere", 5)):
        splits = {"train": [[1, 2, number] * 40] * 4, "eval": [[2, number] * 40], "test": [[number, 7] * 40]}
        for below, shift in ((".", 0), ("a", 1), ("b", 2)):
            moved = {key: [[t + shift for t in each] for each in split] for key, split in splits.items()}
            write_tokens(folder / name / below, moved)
        (pages := folder / name / "pages").mkdir()
        (pages / "lines.jsonl").write_bytes(CORPUS * number)
        (pages / "more.md").write_bytes(b"# Title\n\nSome words of a page.\n" * 40)


def built(plain: Plain) -> str:
    """The program of a spec."""
    return program(json.dumps({key: each for key, each in plain.items() if key not in ("caps", "train")}))


def read(plain: Plain) -> Any:
    """The batches of both splits, and what the task says about them."""
    data = loads(json.dumps(plain)).train.data
    batches = [data.stream(split, 0).batch(1, 8) for split in ("train", "eval")]
    arrays = [(each.shape, each.tolist()) for batch in batches for each in map(np.asarray, batch)]
    said = (data.vocab_needed, data.group_names, data.metrics, data.bytes_per_token, data.document_end())
    return data.task, arrays, repr(said)


def trained(plain: Plain) -> Any:
    """All that a training leaves that does not merely repeat the spec, and what it takes."""
    train = loads(json.dumps(plain)).train
    if train is None:
        return built(plain)
    return _run(json.dumps(plain)), _around(train), make_plan(loads(json.dumps(plain))).costs.to_dict()


def _around(train: Train) -> Any:
    callbacks = [type(each) for each in make_callbacks(train.callbacks)]
    with patch("composer.training.trainer.os.cpu_count", lambda: 8):
        return device_count(train), backend_of(train, 1), callbacks


@cache
def _run(text: str) -> Any:
    """Train on one device, without a process group."""
    plain = json.loads(text)
    plain["train"] |= {"devices": 1, "strategy": "auto", "callbacks": []}
    saves: list[int] = []
    save: Callable[..., None] = Recorder._save
    noted = patch.object(
        Recorder, "_save", lambda self, trainer: (saves.append(self.step), save(self, trainer))
    )
    with TemporaryDirectory() as folder, noted:
        out = Path(folder, "run")
        run_training(loads(json.dumps(plain)), out)
        from safetensors.numpy import load_file

        weights = {name: each.tolist() for name, each in load_file(out / "model.safetensors").items()}
        return saves, (out / "metrics.csv").read_text(), weights


def capped(plain: Plain) -> Any:
    """What exceeds which cap, hard or soft, and the costs."""
    plan = make_plan(loads(json.dumps(plain)))
    return [*map(str, excesses(plan.spec, plan.costs))], warnings(plan.spec, plan.costs), plan.costs.to_dict()


CAPPED: Plain = {**LANGUAGE, "train": RUN["train"]}
"""A model that has every cost."""


def searched(plain: Plain) -> Any:
    """Every training of a search that takes no time, its table, and what its budgets are."""
    with TemporaryDirectory() as folder:
        for name, each in SPECS.items():
            Path(folder, name).write_text(json.dumps(each))
        space = Space(read_text(json.dumps(plain), str(Path(folder, "space.yaml"))))
        training = FakeTraining()
        out = Path(folder, "search")
        run_search(space, out, train=training)
        specs = [path.read_text() for path in sorted(out.rglob("spec.yaml"))]
        left = accounts(space.search, Spending([]), 0, 0)
        best = sorted(path.name for path in (out / "best").glob("*.txt"))
        shown = [(out / "best" / name).read_text().replace(folder, "") for name in best]
        bounds = [_limits(each) for each in space.search.baselines if not isinstance(each, str)]
        return training.calls, specs, [*map(str, left)], shown, bounds


def _limits(baseline: Any) -> Any:
    limits = Limits(loads(json.dumps(SPECS["rival.yaml"])), ShapeBounds.model_validate(baseline.bounds))
    return {name: each for name, each in vars(limits).items() if name != "base"}


RIVAL: Plain = {
    "schema": 1,
    "name": "rival",
    "model": {"width": 16, "vocab": 8, "context": 32},
    "blocks": {
        "seq": {"type": "sequence_attention", "heads": 2},
        "moe": {"type": "expert_attention", "experts": 8, "active": 1, "hidden": 16},
    },
    "stages": [{"stack": 2, "step": ["seq", "moe"]}],
    "train": {
        "data": {"task": "hop", "length": 32, "symbols": 4, "hops": 2},
        "tokens": 8192,
        "batch_tokens": 1024,
    },
}
SPECS = {"rival.yaml": RIVAL, "other.yaml": {**RIVAL, "stages": [{"stack": 1, "step": ["seq", "moe"]}]}}
"""The specs beside a space."""
SPACE: Plain = {
    **RIVAL,
    "name": "space",
    "model": {**RIVAL["model"], "width": {"choice": [16, 32, 64]}},
    "stages": [
        {
            "stack": {"choice": [1, 2]},
            "step": {"choice": {"both": ["seq", "moe"], "one": ["seq", "seq", "moe"]}},
        }
    ],
    "caps": {"params": 40_000, "flops_per_token": 130_000},
    "train": {**RIVAL["train"], "lr": {"float": [1e-4, 1e-2], "log": True}},
    "search": {
        "objectives": [{"maximize": "accuracy"}],
        "trials": 4,
        "rungs": [2048, 4096],
        "sampler": "random",
    },
}
