"""Compile the kernels of `blocks.primitives` for a Hopper, without a GPU; print what they load and store."""

import json

from offline import ptx, spills, widest

from blocks.kernels.gpu import padded
from blocks.primitives import norm_kernel, rotary_kernel
from blocks.primitives.tiles import Shape, tile

TYPES = {
    **dict.fromkeys(("a", "total", "to_total", "to_a", "gain", "shares", "turns"), "*fp32"),
    **dict.fromkeys(("b", "normed", "gradient", "to_b", "x", "out", "to_x"), "*bf16"),
    **dict.fromkeys(("a_stride", "b_stride", "gradient_stride", "to_total_stride", "stride"), "i32"),
    **dict.fromkeys(("rows", "length", "programs"), "i32"),
    "eps": "fp32",
}
UNALIGNED = ("eps", "rows", "length", "programs")


def compiled(function, step, width, **flags):
    """Return the PTX of a kernel."""
    sizes = tile(Shape(step, 90, width))
    constants = {"ROWS": sizes.rows, "BLOCK": padded(width), **flags}
    return ptx(function, TYPES, constants, {*TYPES} - {*UNALIGNED}, num_warps=sizes.warps)


NORMS = {"WIDTH": 1024}
HEADS = {"HEADS": 16, "DIM": 64}
KERNELS = {
    "add_norm": (norm_kernel._add_norm, "add_norm", 1024, NORMS),
    "add_norm_backward": (
        norm_kernel._add_norm_backward,
        "add_norm_backward",
        1024,
        {**NORMS, "NORM": True, "TOTAL": True, "TWICE": True},
    ),
    "rotate": (rotary_kernel._rotate, "rotate", 64, {**HEADS, "NORM": False, "BACK": True}),
    "norm_rotate": (rotary_kernel._rotate, "rotate", 64, {**HEADS, "NORM": True, "BACK": False}),
    "norm_rotate_backward": (rotary_kernel._rotate_backward, "rotate_backward", 64, HEADS),
}
if __name__ == "__main__":
    found = {}
    for name, (function, step, width, flags) in KERNELS.items():
        text = compiled(function, step, width, **flags)
        found[name] = {**{way: widest(text, way) for way in ("ld", "st")}, "spills": spills(text)}
    print(json.dumps(found))
