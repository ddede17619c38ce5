"""The model on which whole steps and operations are measured, at full size and small."""

from __future__ import annotations

from importlib.resources import files

from composer.language.load import loads
from composer.language.schema.spec import Spec

_FILE = "dreamer-173m.yaml"
_SMALL = (
    "name=dreamer-173m-small",
    "model.width=64",
    "model.vocab=96",
    "model.context=32",
    "blocks.seq.heads=4",
    "blocks.seq.kv_heads=1",
    "blocks.depth.heads=4",
    "blocks.depth.kv_heads=1",
    "blocks.expert.experts=8",
    "blocks.expert.active=2",
    "blocks.expert.hidden=32",
    "caps.train_memory.batch_tokens=64",
)


def bench_spec(full: bool, steps: int, *changes: str) -> Spec:
    """Return the spec, with the tokens of a batch in `caps.train_memory`.

    `changes` are as with `--set`.
    """
    text = files("composer.bench.measuring").joinpath(_FILE).read_text(encoding="utf-8")
    return loads(text, _FILE, (*(() if full else _SMALL), f"stages.0.recur={steps}", *changes))
