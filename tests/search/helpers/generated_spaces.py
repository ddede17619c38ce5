"""Search spaces, generated."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from composer.language.parsing.yaml12 import read
from composer.language.space import Space

BASE = {
    "schema": 1,
    "name": "generated",
    "train": {"data": {"task": "hop", "length": 16, "symbols": 4, "hops": 2}, "tokens": 4096},
    "search": {"objectives": [{"maximize": "accuracy"}], "trials": 4},
}


def some(*values: Any) -> st.SearchStrategy[Any]:
    """One of the values, or a choice of several."""
    several = st.lists(st.sampled_from(values), min_size=1, max_size=3, unique=True)
    return st.sampled_from(values) | several.map(lambda result: {"choice": result})


@st.composite
def spaces(drawn: st.DrawFn) -> Space:
    """Spaces with choices in blocks, stages, training and whole branches, under caps that bite or do not."""
    steps = {"plain": ["seq", "expert"], "deep": ["seq", "depth", "expert"]}
    combine = drawn(some("sum", "mean", "gate"))
    steps["side"] = [{"parallel": ["seq", "depth"], "combine": combine}, "expert"]  # type: ignore[list-item]
    names = drawn(st.lists(st.sampled_from(sorted(steps)), min_size=2, max_size=3, unique=True))
    hidden = {"int": [8, 64], **drawn(st.sampled_from([{"step": 8}, {"log": True}]))}
    document = {
        **BASE,
        "let": {"w": {"choice": [8, 16, 32]}},
        "model": {"width": "${w}", "vocab": 8, "context": 16},
        "blocks": {
            "seq": {
                "type": "sequence_attention",
                "heads": drawn(some(1, 2, 4)),
                "kv_heads": drawn(some(1, 2)),
            },
            "depth": {"type": "depth_attention", "heads": drawn(some(2, 4))},
            "expert": {
                "type": "expert_attention",
                "experts": drawn(some(2, 4, 8)),
                "active": {"int": [1, 4]},
                "hidden": hidden,
            },
        },
        "stages": [
            {"recur": drawn(some(2, 3, 4)), "step": {"choice": {name: steps[name] for name in names}}},
            {"stack": {"int": [1, 3]}, "step": ["seq", "depth", "expert"]},
        ],
        "caps": {"params": drawn(st.sampled_from([4_000, 10_000, 10**6]))},
    }
    document["train"] = {**BASE["train"], "lr": {"float": [1e-4, 1e-2], "log": drawn(st.booleans())}}
    return Space(read(json.dumps(document), "generated"))
