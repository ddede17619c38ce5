"""Specs as plain data that between them use every block, option and mix; small and odd sizes."""

from composer.testing.examples import completed, wiring_examples

SEQ = {"type": "sequence_attention", "heads": 3, "kv_heads": 1, "head_dim": 6}
DEPTH = {"type": "depth_attention", "heads": 3, "kv_heads": 1, "head_dim": 6}
EXPERT = {"type": "expert_attention", "experts": 5, "active": 2, "hidden": 7}
FFN = {"type": "feed_forward", "hidden": 9}
LATENT = {"type": "latent_attention", "heads": 3, "head_dim": 6, "rope_dim": 4, "latent": 5}
DELTA = {"type": "gated_delta", "heads": 3, "head_dim": 4, "value_dim": 5}
PEER = {"type": "product_key_experts", "experts": 9, "active": 2, "heads": 2, "key_dim": 4}
ALL = {"seq": SEQ, "depth": DEPTH, "expert": EXPERT, "ffn": FFN}
GROUPED = {**EXPERT, "hidden": 8}


def tree(blocks, *stages, width=10, tie=True, **options):
    model = {"width": width, "vocab": 11, "context": 8, "tie_embeddings": tie, **options}
    return {"schema": 1, "name": "t", "model": model, "blocks": blocks, "stages": list(stages)}


def one(block, *, width=10, **stage):
    return tree({"b": block}, {"recur": 3, "step": ["b"], **stage}, width=width)


def mix(combine):
    return tree(ALL, {"recur": 2, "step": [{"parallel": list(ALL), "combine": combine}]})


DREAMER = tree(
    {"seq": SEQ, "depth": DEPTH, "expert": EXPERT}, {"recur": 3, "step": ["seq", "depth", "expert"]}
)
CASES = {
    "sequence": one(SEQ),
    "sequence, as many kv heads": one({**SEQ, "kv_heads": 3}),
    "sequence, head_dim from the width": one({"type": "sequence_attention", "heads": 5}),
    "sequence, 10 wide heads": one({**SEQ, "heads": 4, "kv_heads": 2, "head_dim": 10}),
    "sequence, qk_norm": one({**SEQ, "qk_norm": True}),
    "sequence, rope off, odd heads": one({**SEQ, "rope": False, "head_dim": 5}),
    "sequence, rope base": one({**SEQ, "rope_base": 50.0}),
    "sequence, long rope base": one({**SEQ, "rope_base": 1e6}),
    "sequence, two bases alike in six digits": tree(
        {"a": {**SEQ, "rope_base": 123456.1}, "b": {**SEQ, "rope_base": 123456.4}},
        {"recur": 2, "step": ["a", "b"]},
    ),
    "sequence, rope on a third of each head": one({**SEQ, "rope_fraction": 0.34}),
    "sequence, rope on half of odd heads": one({**SEQ, "rope_fraction": 0.5, "head_dim": 5}),
    "sequence, window 1": one({**SEQ, "window": 1}),
    "sequence, window 3 and qk_norm": one({**SEQ, "window": 3, "qk_norm": True}),
    "sequence, window 2 and sinks": one({**SEQ, "window": 2, "sinks": 2}),
    "sequence, capped scores": one({**SEQ, "soft_cap": 0.3}),
    "sequence, capped scores in a window with a sink": one({**SEQ, "soft_cap": 0.3, "window": 2, "sinks": 1}),
    "sequence, positions divided": one({**SEQ, "rope_scaling": {"linear": 4}}),
    "sequence, NTK scaling of a part": one({**SEQ, "rope_scaling": {"ntk": 3}, "rope_fraction": 0.7}),
    "sequence, YaRN": one(
        {**SEQ, "rope_base": 20.0, "rope_scaling": {"yarn": {"factor": 4, "context": 30, "beta_fast": 6}}}
    ),
    "sequence, joint with depth": one({**SEQ, "depth": "joint"}),
    "sequence, joint with depth, windows and untied layers": tree(
        {"b": {**SEQ, "depth": "joint", "window": 2, "sinks": 1, "qk_norm": True}, "d": DEPTH},
        {"stack": 3, "step": ["b"]},
        {"recur": 2, "step": ["d", {"stack": 2, "step": ["b", "d"]}, "b"]},
    ),
    "latent": one(LATENT),
    "latent, queries of a latent, head_dim from the width, rope base": one(
        {"type": "latent_attention", "heads": 2, "latent": 7, "query_latent": 3, "rope_base": 50.0}, width=8
    ),
    "gated delta": one(DELTA),
    "gated delta, head_dim from the width, long convolutions, no gate": one(
        {"type": "gated_delta", "heads": 2, "convolution": 9, "gate": False}
    ),
    "gated delta alone, beside attention": tree(
        {"d": {**DELTA, "convolution": 0}, "s": SEQ}, {"stack": 2, "step": ["d", {"parallel": ["s", "d"]}]}
    ),
    "sequence, all steps": one({**SEQ, "steps": "all"}),
    "sequence, all steps in a window with a sink": tree(
        {"b": {**SEQ, "steps": "all", "window": 2, "sinks": 1}},
        {"stack": 2, "step": ["b"]},
        {"recur": 2, "step": [{"stack": 2, "step": ["b"]}, "b", "b"]},
    ),
    "sequence, documents apart": tree(
        {"b": {**SEQ, "qk_norm": True}, "d": DEPTH},
        {"recur": 2, "step": ["b", "d"]},
        documents={"apart": 2},
        positions="learned",
    ),
    "sequence, documents apart in windows": tree(
        {"near": {**SEQ, "window": 2}, "far": {**SEQ, "window": 4}},
        {"recur": 2, "step": ["near", "far"]},
        documents={"apart": 2},
    ),
    "sequence, two windows": tree(
        {"near": {**SEQ, "window": 2}, "far": {**SEQ, "window": 4}}, {"recur": 2, "step": ["near", "far"]}
    ),
    "depth": one(DEPTH),
    "depth, as many kv heads": one({**DEPTH, "kv_heads": 3}),
    "depth, exclusive": one({**DEPTH, "span": "exclusive"}),
    "depth, rotary off, odd heads": one({**DEPTH, "rotary": False, "head_dim": 5}),
    "depth, exclusive, one step": tree({"b": {**DEPTH, "span": "exclusive"}}, {"recur": 1, "step": ["b"]}),
    "depth, window": one({**DEPTH, "window": 2}),
    "depth, window and stride, exclusive": tree(
        {"b": {**DEPTH, "window": 4, "stride": 2, "span": "exclusive"}}, {"recur": 6, "step": ["b"]}
    ),
    "depth, bias by distance": one({**DEPTH, "bias": "distance", "rotary": False}),
    "depth, the input is a slot": one({**DEPTH, "input": True}),
    "depth, the input is what the first step reads": one({**DEPTH, "input": True, "span": "exclusive"}),
    "depth, everything at once": tree(
        {"d": {**DEPTH, "input": True, "window": 5, "stride": 2, "bias": "distance"}, "f": FFN},
        {"stack": 1, "step": ["f"]},
        {"recur": 2, "step": ["d", {"stack": 3, "step": ["f", "d"]}, {"recur": 2, "step": ["d"]}]},
    ),
    "depth over all stages of the model": tree(
        {"d": {**DEPTH, "depth_scope": "model", "input": True}, "f": FFN},
        {"stack": 2, "step": ["f", "d"]},
        {"stack": 1, "step": ["f"]},
        {"recur": 2, "step": ["d", {"recur": 2, "step": ["f", "d"]}]},
    ),
    "depth over the whole stage around a loop": tree(
        {"d": {**DEPTH, "depth_scope": "stage", "window": 4, "bias": "distance"}, "f": FFN},
        {"stack": 2, "step": ["d", {"recur": 2, "step": ["f", "d"]}, "d"]},
        {"recur": 2, "step": ["d"]},
    ),
    "depth over the keys and values of sequence attention": tree(
        {
            "s": {**SEQ, "rope_fraction": 0.7, "qk_norm": True},
            "d": {**DEPTH, "heads": 2, "kv_from": "s", "rotary": False, "window": 2},
        },
        {"recur": 3, "step": [{"parallel": ["s", "d"]}, "d"]},
        {"stack": 2, "step": ["s", "d"]},
    ),
    "depth in a stack": tree({"b": DEPTH}, {"stack": 3, "step": ["b"]}),
    "expert": one(EXPERT),
    "expert, grouped": one(GROUPED, width=16),
    "expert, one active": one({**EXPERT, "active": 1}),
    "expert, all active": one({**EXPERT, "active": 5}),
    "expert, no depth code": one({**EXPERT, "depth_code": "none"}),
    "expert, depth bias": one({**EXPERT, "depth_code": "bias"}),
    "expert, sigma-MoE": one({**EXPERT, "renormalize": False, "activation": "relu"}),
    "expert, softmax and shared": one({**EXPERT, "scores": "softmax", "renormalize": False, "shared": 2}),
    "expert, all other fields": one(
        {
            **GROUPED,
            "scores": "softmax",
            "activation": "relu",
            "shared": 1,
            "z_loss": 0.5,
            "balance_loss": 0.5,
        },
        width=16,
    ),
    "expert, a capacity": one({**EXPERT, "capacity": 0.75}),
    "expert, experts choose": one({**EXPERT, "routing": "expert_choice", "hidden": 8, "z_loss": 0.1}),
    "expert, odd width": one({**EXPERT, "depth_code": "bias"}, width=9),
    "expert codes through nested loops": tree(
        {"r": EXPERT, "b": {**EXPERT, "depth_code": "bias"}},
        {"recur": 2, "step": ["r", {"stack": 3, "step": ["r", "b"]}, {"recur": 2, "step": ["b", "r"]}]},
    ),
    "product keys": one(PEER),
    "product keys, all of a set, key_dim from the width, beside attention": tree(
        {"p": {"type": "product_key_experts", "experts": 16, "active": 4}, "s": SEQ},
        {"stack": 2, "step": ["s", "p"]},
    ),
    "feed forward, swiglu": one(FFN),
    **{
        f"feed forward, {activation}": one({**FFN, "activation": activation})
        for activation in ("gelu", "gelu_tanh", "geglu", "relu", "relu2")
    },
    **{f"parallel, {value}": mix(value) for value in wiring_examples("parallel")["combine"]},
    "parallel, twice the same": tree(
        {"d": {**DEPTH, "span": "exclusive"}},
        {"recur": 3, "step": [{"parallel": ["d", "d"], "combine": "gate"}]},
    ),
    **{
        f"feed-forward layers with keys for attention, {kind}": tree(
            {"s": {**SEQ, "depth": "joint", "kv_heads": 3}, "f": {**FFN, "kv_for": "s"}},
            {kind: 3, "step": ["s", "f", "f"]},
            *more,
        )
        for kind, more in (
            ("stack", ()),
            ("recur", ({"recur": 2, "step": ["s", {"stack": 2, "step": ["s", "f"]}]},)),
        )
    },
    **{
        f"{key} {value}": completed(
            tree({"d": DEPTH, "f": FFN}, {"recur": 3, "step": ["d", {"parallel": ["f", "d"]}], key: value})
        )
        for key, (_, *values) in wiring_examples("stage").items()
        for value in values
    },
    "options of entries, of a stage and of the model": {
        **(
            result := tree(
                ALL,
                {"recur": 2, "step": ["ffn", {"use": "seq", "norm": "sandwich"}, "depth"], "norm": "post"},
                {"recur": 2, "step": [{"parallel": ["seq", "expert"], "residual": "add"}, {"use": "ffn"}]},
            )
        ),
        "model": {**result["model"], "residual": {"scale": 0.25}},
    },
    **{
        f"model, {options}": tree(
            {**ALL, "seq": {**SEQ, "qk_norm": True}},
            {"recur": 2, "step": ["seq", {"parallel": ["ffn", "depth"], "combine": "gate"}, "expert"]},
            **options,
        )
        for options in (
            {"norm_type": "layer"},
            {"norm_type": "layer", "bias": True, "positions": "learned", "embedding_scale": 1},
            {"bias": True, "embedding_scale": 0.5},
        )
    },
    **{
        f"start {start}, inject {inject}": tree(
            {"s": SEQ}, {"recur": 2, "step": ["s"], "start": start, "inject": inject}
        )
        for start in ("zeros", {"noise": 2.0}, "learned")
        for inject in ("add", "diagonal")
    },
    "states inside and outside, in a stack and by the step": tree(
        {"s": SEQ, "f": FFN},
        {
            "recur": 2,
            "step": ["s", {"stack": 2, "step": ["f"], "start": "learned", "inject": "diagonal"}, "f"],
            "start": "noise",
            "inject": "concat",
            "step_code": "sinusoidal",
        },
        {"stack": 2, "step": [{"recur": 3, "step": ["s"], "start": "noise", "inject": "diagonal"}]},
    ),
    "all weights per step, inside and outside": tree(
        {"s": {**SEQ, "qk_norm": True}, "f": FFN, "e": {**EXPERT, "depth_code": "bias"}},
        {
            "recur": 2,
            "step": [
                "s",
                {"recur": 3, "step": ["f"], "per_step": {"norm": True, "scale": True}, "norm": "post"},
                {"parallel": ["e", "f"], "combine": "gate"},
            ],
            "per_step": {"lora": 3, "norm": True, "scale": True},
            "norm": "sandwich",
            "step_code": "embedding",
        },
    ),
    "modulation of two stages": tree(
        {"s": SEQ, "f": FFN},
        {"recur": 3, "step": ["s", {"recur": 2, "step": ["f"], "step_code": {"modulation": 3}}, "f"]}
        | {"step_code": {"modulation": 6}},
    ),
    "inject in a stack": tree({"f": FFN}, {"stack": 3, "step": ["f"], "inject": "concat"}),
    "inject inside and outside": tree(
        {"f": FFN}, {"recur": 2, "step": [{"stack": 2, "step": ["f"], "inject": "add"}], "inject": "concat"}
    ),
    "the same block twice in a step": tree(
        {"d": DEPTH, "e": {**DEPTH, "span": "exclusive"}}, {"recur": 3, "step": ["d", "e", "d", "e"]}
    ),
    "depth across the layers of a looped stack": tree(
        {"d": DEPTH, "f": FFN}, {"recur": 3, "step": [{"stack": 2, "step": ["d", "f"]}]}
    ),
    "depth before, in and after a nested stack": tree(
        {"d": {**DEPTH, "span": "exclusive"}},
        {"recur": 2, "step": ["d", {"stack": 2, "step": ["d", "d"]}, "d", "d"]},
    ),
    "depth scopes of a nested recur end with it": tree(
        {"d": DEPTH}, {"recur": 2, "step": ["d", {"recur": 2, "step": ["d"]}, "d"]}
    ),
    "stack in a stack has a scope of its own": tree(
        {"d": DEPTH}, {"stack": 2, "step": ["d", {"stack": 2, "step": ["d"]}, "d"]}
    ),
    "three levels": tree(
        {"d": DEPTH, "s": SEQ},
        {"recur": 2, "step": [{"stack": 2, "step": ["d", {"stack": 2, "step": ["s", "d"]}]}]},
    ),
    "prelude, core, coda, untied": tree(
        ALL,
        {"stack": 2, "step": ["seq", "ffn"]},
        {"recur": 3, "step": ["seq", "depth", "expert"], "inject": "concat"},
        {"stack": 1, "step": ["ffn", "depth"]},
        tie=False,
    ),
    "dreamer": DREAMER,
    "dreamer, grouped": tree(
        {"seq": SEQ, "depth": DEPTH, "expert": GROUPED},
        {"recur": 3, "step": ["seq", "depth", "expert"]},
        width=16,
    ),
}

TINY = """\
schema: 1
name: tiny
model: {width: 8, vocab: 8, context: 16}
blocks: {seq: {type: sequence_attention, heads: 2}}
stages: [{recur: 2, step: [seq]}]
train:
  data: {task: hop, length: 16, symbols: 4, hops: 2}
  tokens: 640
  batch_tokens: 160
  eval: {tokens: 160}
"""
"""A spec, as a file, that trains in a second."""
