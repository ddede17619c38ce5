"""Hypothesis strategies for specs, as plain data; valid ones, with any block and any nesting."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from blocks.base.wiring import Owner
from composer.testing.examples import wiring_examples

_SMALL = st.integers(1, 8)


@st.composite
def attention(draw: st.DrawFn, kind: str) -> dict[str, Any]:
    kv_heads = draw(st.sampled_from([1, 2]))
    found = {"type": kind, "heads": kv_heads * draw(st.sampled_from([1, 2])), "head_dim": 2 * draw(_SMALL)}
    if draw(st.booleans()):
        found["kv_heads"] = kv_heads
    if kind == "sequence_attention":
        found |= draw(
            st.fixed_dictionaries(
                {}, optional={"rope": st.booleans(), "window": _SMALL, "qk_norm": st.booleans()}
            )
        )
        return found
    optional = {"rotary": st.booleans(), "span": st.sampled_from(["inclusive", "exclusive"])}
    return found | draw(st.fixed_dictionaries({}, optional=optional))


@st.composite
def experts(draw: st.DrawFn) -> dict[str, Any]:
    count = draw(_SMALL)
    optional = {"depth_code": st.sampled_from(["none", "rotary", "bias"]), "balance_rate": st.floats(0, 1)}
    found = {"type": "expert_attention", "experts": count, "active": draw(st.integers(1, count))}
    return found | {"hidden": draw(_SMALL)} | draw(st.fixed_dictionaries({}, optional=optional))


def blocks() -> st.SearchStrategy[dict[str, Any]]:
    forward = st.fixed_dictionaries(
        {"type": st.just("feed_forward"), "hidden": _SMALL},
        optional={"activation": st.sampled_from(["swiglu", "gelu"])},
    )
    return st.one_of(attention("sequence_attention"), attention("depth_attention"), experts(), forward)


def wiring(owner: Owner) -> dict[str, st.SearchStrategy[Any]]:
    return {key: st.sampled_from(values) for key, values in wiring_examples(owner).items()}


def stages(names: list[str]) -> st.SearchStrategy[list[dict[str, Any]]]:
    name = st.sampled_from(names)
    parallel = st.fixed_dictionaries(
        {"parallel": st.lists(name, min_size=2, max_size=3)},
        optional=wiring("parallel"),
    )

    def stage(entry: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
        rest = {"step": st.lists(entry, min_size=1, max_size=3)}
        kinds = [
            st.fixed_dictionaries({kind: _SMALL, **rest}, optional=wiring("stage"))
            for kind in ("recur", "stack")
        ]
        return st.one_of(kinds)

    entries = st.recursive(st.one_of(name, parallel), stage, max_leaves=5)
    return st.lists(stage(entries), min_size=1, max_size=3)


def trains() -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {
            "data": st.just({"task": "hop", "length": 16, "symbols": 5, "hops": 2}),
            "tokens": st.integers(1, 10**9),
        },
        optional={
            "lr": st.floats(1e-8, 10),
            "betas": st.tuples(st.floats(0, 0.99), st.floats(0, 0.99)).map(list),
            "clip": st.floats(0, 10),
            "precision": st.sampled_from(["auto", 32, "bf16-mixed"]),
            "seed": st.integers(0, 2**40),
            "devices": st.sampled_from(["auto", 1, 8]),
            "schedule": st.just({"warmup": 0, "stable": 0.5, "decay": 0.5}),
            "eval": st.fixed_dictionaries({}, optional={"every": _SMALL, "tokens": _SMALL}),
        },
    )


@st.composite
def specs(draw: st.DrawFn) -> dict[str, Any]:
    """Plain data of a valid spec."""
    # names that look like something else in YAML
    names = ["seq", "null", "true", "e1", "no", "a-b_c", "Inf"]
    chosen = draw(st.lists(st.sampled_from(names), min_size=1, max_size=4, unique=True))
    found = draw(stages(chosen))
    used = sorted(set(_names(found)))
    width = 2 * draw(st.integers(1, 64))
    size = {"width": width, "vocab": draw(st.integers(16, 99)), "context": draw(st.integers(16, 99))}
    options = {"tie_embeddings": st.booleans(), **wiring("model")}
    spec: dict[str, Any] = {
        "schema": 1,
        "name": draw(st.sampled_from(["tiny", "1e5", "0x10", "x.y-z"])),
        "model": size | draw(st.fixed_dictionaries({}, optional=options)),
        "blocks": {name: draw(blocks()) for name in used},
        "stages": found,
    }
    if draw(st.booleans()):
        spec["train"] = draw(trains())
        spec["caps"] = draw(st.fixed_dictionaries({}, optional={"params": _SMALL, "train_flops": _SMALL}))
    return spec


def _names(found: list[Any]) -> list[str]:
    names: list[str] = []
    for entry in found:
        if isinstance(entry, str):
            names.append(entry)
        else:
            names += _names(entry.get("step", entry.get("parallel")))
    return names
