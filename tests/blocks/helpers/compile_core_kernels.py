"""Compile the kernels of `blocks.primitives` and of the loss for a Hopper; print what they load and store."""

import json

from offline import ptx, spills, widest

from blocks.kernels.gpu import padded
from blocks.primitives import norm_kernel, rotary_kernel
from blocks.primitives.tiles import Shape, tile
from blocks.wiring.loss.cross_entropy import loss_kernel
from blocks.wiring.loss.cross_entropy import tiles as loss_tiles

TYPES = {
    **dict.fromkeys(("a", "total", "to_total", "to_a", "gain", "shares", "turns"), "*fp32"),
    **dict.fromkeys(("b", "normed", "gradient", "to_b", "x", "out", "to_x"), "*bf16"),
    **dict.fromkeys(("a_stride", "b_stride", "gradient_stride", "to_total_stride", "stride"), "i32"),
    **dict.fromkeys(("out_stride", "to_x_stride", "rows", "length", "programs"), "i32"),
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
        {**NORMS, "NORM": True, "TOTAL": True, "TWICE": True, "ADD": True},
    ),
    "rotate": (rotary_kernel._rotate, "rotate", 64, {**HEADS, "NORM": False, "BACK": True}),
    "norm_rotate": (rotary_kernel._rotate, "rotate", 64, {**HEADS, "NORM": True, "BACK": False}),
    "norm_rotate_backward": (rotary_kernel._rotate_backward, "rotate_backward", 64, HEADS),
}
VOCAB, WIDTH = 32768, 1024


def loss():
    """Return the PTX of the kernel of the loss."""
    sizes = loss_tiles.tile(loss_tiles.Shape(90, VOCAB))
    types = {"logits": "*bf16", "targets": "*i64", "losses": "*fp32", "rows": "*bf16", "share": "fp32"}
    constants = {"VOCAB": VOCAB, "WIDTH": WIDTH, "IGNORED": -100, "GRADIENT": True, "BLOCK": sizes.columns}
    aligned = {*types} - {"share"}
    return ptx(loss_kernel._cross_entropy, types, constants, aligned, num_warps=sizes.warps)


if __name__ == "__main__":
    results = {}
    texts = {name: compiled(*given, **flags) for name, (*given, flags) in KERNELS.items()}
    for name, text in {**texts, "cross_entropy": loss()}.items():
        results[name] = {**{way: widest(text, way) for way in ("ld", "st")}, "spills": spills(text)}
    print(json.dumps(results))
