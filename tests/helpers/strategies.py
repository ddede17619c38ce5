"""Random valid specs for property tests: every block and option, every mix, nested stages; small sizes."""

import json

from hypothesis import strategies as st

from composer.language.load import loads
from composer.testing.examples import wiring_examples

NAMES = ("seq", "depth", "expert", "ffn", "side-2", "Twin_b", "norm", "eval")


def _divisors(n):
    return [d for d in range(1, n + 1) if n % d == 0]


@st.composite
def attention(draw, width, rotates):
    heads = draw(st.sampled_from([n for n in (1, 2, 3, 4) if n <= width]))
    config = {"heads": heads}
    if draw(st.booleans()):
        config["kv_heads"] = draw(st.sampled_from(_divisors(heads)))
    default = width // heads if width % heads == 0 else 0
    if not default or (rotates and default % 2) or draw(st.booleans()):
        config["head_dim"] = draw(st.sampled_from([2, 4, 6, 10] if rotates else [1, 3, 4, 6]))
    return config


@st.composite
def sequence_attention(draw, width):
    rope = draw(st.booleans())
    config = {"type": "sequence_attention", "rope": rope, **draw(attention(width, rope))}
    if rope and draw(st.booleans()):
        config["rope_base"] = draw(st.sampled_from([500.0, 1e6, 123456.1, 123456.4]))
    if draw(st.booleans()):
        config["window"] = draw(st.integers(1, 9))
    config["qk_norm"] = draw(st.booleans())
    return config


@st.composite
def depth_attention(draw, width):
    rotary = draw(st.booleans())
    span = draw(st.sampled_from(["inclusive", "exclusive"]))
    return {
        "type": "depth_attention",
        "rotary": rotary,
        "span": span,
        **draw(attention(width, rotary)),
    }


@st.composite
def expert_attention(draw, width):
    experts = draw(st.integers(1, 6))
    return {
        "type": "expert_attention",
        "experts": experts,
        "active": draw(st.integers(1, min(3, experts))),
        "hidden": draw(st.sampled_from([3, 8, 16])),
        "depth_code": draw(st.sampled_from(["none", "bias"] + ["rotary"] * (width % 2 == 0))),
        "balance_rate": draw(st.sampled_from([0, 0.001, 0.1])),
    }


def feed_forward(width):
    return st.fixed_dictionaries(
        {
            "type": st.just("feed_forward"),
            "hidden": st.sampled_from([1, 5, 16]),
            "activation": st.sampled_from(["swiglu", "gelu"]),
        }
    )


def block(width):
    return st.one_of(
        sequence_attention(width), depth_attention(width), expert_attention(width), feed_forward(width)
    )


def wiring(owner):
    """Map each key of wiring to a strategy: its default more often than each other value."""
    return {key: st.sampled_from(values[:1] + values) for key, values in wiring_examples(owner).items()}


@st.composite
def stage(draw, names, levels, room):
    """`room` bounds the executions of one step of this stage, counted through the loops around it."""
    trips = draw(st.integers(1, min(4, room)))
    name = st.sampled_from(names)
    mix = st.fixed_dictionaries(
        {
            "parallel": st.lists(name, min_size=2, max_size=3),
            **wiring("parallel"),
        }
    )
    kinds = [name, name, mix]
    if levels > 1:
        kinds.append(stage(names, levels - 1, room // trips))
    step = draw(st.lists(st.one_of(kinds), min_size=1, max_size=3))
    options = draw(st.fixed_dictionaries(wiring("stage")))
    return {draw(st.sampled_from(["recur", "stack"])): trips, "step": step, **options}


def used(stages):
    for entry in (entry for each in stages for entry in each["step"]):
        if isinstance(entry, str):
            yield entry
        elif "parallel" in entry:
            yield from entry["parallel"]
        else:
            yield from used([entry])


@st.composite
def trees(draw, levels=3, room=8, widths=(5, 6, 8, 12, 16)):
    """A spec as plain data, as a user would write it."""
    width = draw(st.sampled_from(widths))
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique=True))
    stages = draw(st.lists(stage(names, levels, room), min_size=1, max_size=3))
    sized = {name: draw(block(width)) for name in dict.fromkeys(used(stages))}
    model = {
        "width": width,
        "vocab": draw(st.integers(2, 20)),
        "context": draw(st.sampled_from([7, 8, 12])),
        "tie_embeddings": draw(st.booleans()),
        **draw(st.fixed_dictionaries(wiring("model"))),
    }
    return {"schema": 1, "name": "generated", "model": model, "blocks": sized, "stages": stages}


def make(tree):
    """Load a spec from plain data, through its text."""
    return loads(json.dumps(tree))


def specs(**bounds):
    return trees(**bounds).map(make)
