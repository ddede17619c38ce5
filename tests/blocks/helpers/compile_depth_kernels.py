"""Compile the depth kernels for a Hopper, which takes no GPU; print what their loads and stores are."""

import json
import sys

from offline import ptx, spills, waits, widest

from blocks.depth_attention import append_kernel, kernel, pull_kernel
from blocks.depth_attention.tiles import Shape, tile
from blocks.kernels.gpu import padded

SIZES = ((64, 4, 4), (128, 8, 2), (64, 16, 1))
"""Head sizes, query heads to a kv head, kv heads; the last only where all are asked for."""
TYPES = {
    **dict.fromkeys(
        (
            "query",
            "keys",
            "values",
            "out",
            "gradient",
            "query_gradient",
            "key",
            "value",
            "key_slot",
            "value_slot",
        ),
        "*bf16",
    ),
    **dict.fromkeys(("key_gradient", "value_gradient"), "*bf16"),
    **dict.fromkeys(("log_sum", "delta", "key_gradients", "value_gradients", "turn"), "*fp32"),
    **dict.fromkeys(("bias", "shares"), "*fp32"),
    **dict.fromkeys(("note", "table"), "*i64"),
    **dict.fromkeys(("reads", "first", "rows", "slot", "tokens", "query_stride", "gradient_stride"), "i32"),
    **dict.fromkeys(("key_stride", "value_stride", "query_gradient_stride"), "i32"),
    **dict.fromkeys(("key_gradient_stride", "value_gradient_stride"), "i32"),
    "slot_stride": "i64",
    "scale": "fp32",
}
ALIGNED = ("tokens", *(name for name in TYPES if name.endswith("_stride")))


def compiled(sizes, function, step, **flags):
    """Return the PTX of a kernel."""
    head_dim, group, kv_heads = sizes
    group = 1 if step == "append" else group
    taken = tile(Shape(step, 90, head_dim, group))
    blocks = {"BLOCK_TOKENS": taken.tokens, "BLOCK_GROUP": padded(group), "BLOCK_DIM": padded(head_dim)}
    given = {"KV_HEADS": kv_heads, "GROUP": group, "DIM": head_dim, **blocks, **flags}
    constants = {name: value for name, value in given.items() if name in function.arg_names}
    aligned = {*ALIGNED, *(name for name, kind in TYPES.items() if kind.startswith("*"))}
    types = {name: kind for name, kind in TYPES.items() if name not in constants}
    return ptx(function, types, constants, aligned, num_warps=taken.warps, enable_fp_fusion=True)


BACKWARD = {"ONLY": False, "NOTE": False, "STAGES": 1}
PULL = {"COLUMNS": pull_kernel.COLUMNS, "APART": 8}
UNBIASED = {"BIAS": 0, "ADD": False, "bias": None, "shares": None}
KERNELS = {
    f"{name}{kind}": (function, step, {**flags, "TURN": turned, **bias})
    for kind, turned, bias in (
        ("", False, UNBIASED),
        (", turned", True, UNBIASED),
        (", biased", False, {"BIAS": 2, "ADD": True}),
    )
    for name, function, step, flags in (
        ("append", append_kernel._append, "append", {}),
        ("forward", kernel._forward, "forward", {"STAGES": 1}),
        ("noted", kernel._backward, "backward", {**BACKWARD, "PUSH": False, "NOTE": True}),
        ("pushed", kernel._backward, "backward", {**BACKWARD, "PUSH": True}),
        ("written", kernel._backward, "backward", {**BACKWARD, "PUSH": True, "ONLY": True}),
        ("pulled", pull_kernel._pull, "pull", {**PULL, "QUERIES": turned}),
    )
    if "biased" not in kind or step != "append"
}
if __name__ == "__main__":
    results = {}
    for sizes in SIZES if "all" in sys.argv else SIZES[:-1]:
        for name, (function, step, flags) in KERNELS.items():
            if sizes == SIZES[0] or "," not in name:
                text = compiled(sizes, function, step, **flags)
                facts = {"bytes": widest(text, "ld"), "spills": spills(text), "waits": waits(text)}
                results[f"{name} {sizes}"] = facts
    print(json.dumps(results))
