"""Compile the kernels of expert attention for a Hopper, which takes no GPU; print what their accesses are."""

import json
import sys

from offline import ptx, spills, widest

from blocks.expert_attention import gather_kernel, route_kernel, rows_kernel, weights_kernel
from blocks.expert_attention.tiles import (
    PRODUCT_STEPS,
    ProductShape,
    Shape,
    gather_tile,
    product_tile,
    tile,
)

ACTIVE, WIDTH = 8, 1024
INTEGERS = ("indices", "before", "counts", "place", "order", "ends")
FLOATS = ("products", "balance", "weights", "totals", "to_weights", "load")


def type_of(name, routing, counted):
    if name == "bits":
        return "*u8"
    if name in INTEGERS:
        return "*i32"
    if name in FLOATS or (routing and name in ("gradient", "made")):
        return "*fp32"
    if name in counted:
        return "i32"
    if name == "scale":
        return "fp32"
    return "*bf16" if name in ("x", "both", "to_both", "made", "gradient", "rows") else "constexpr"


def compiled(function, step, width, **constants):
    """Return the PTX of a kernel."""
    routing = hasattr(route_kernel, function.__name__)
    sizes = tile(Shape(step, 90, width))
    names = list(function.arg_names)
    counted = {"tokens", "tiles", "choices", "stride"} | ({"rows"} if names[0] != "rows" else set())
    types = {name: type_of(name, routing, counted) for name in names}
    aligned = {name for name, kind in types.items() if kind.startswith("*") or kind == "i32"}
    return ptx(function, types, constants, aligned, num_warps=sizes.warps, enable_fp_fusion=step != "choose")


def kernels(experts):
    """Yield name, function, step, width and constants of each kernel."""
    sizes = {"EXPERTS": experts, "ACTIVE": ACTIVE}
    choose, put = (tile(Shape(step, 90, experts)) for step in ("choose", "place"))
    scan = tile(Shape("scan", 90, experts))
    block = {"BLOCK_TOKENS": choose.rows, "BLOCK_EXPERTS": choose.columns}
    tiles = {"BLOCK_TILES": scan.rows, "BLOCK_EXPERTS": scan.columns, "EXPERTS": experts, "LOAD": True}
    places = {"TILE": choose.rows, "BLOCK_CHOICES": put.rows, "BLOCK_EXPERTS": put.columns}
    yield "choose", route_kernel._choose, "choose", experts, {**sizes, **block}
    yield "scan", route_kernel._scan, "scan", experts, tiles
    yield "place", route_kernel._place, "place", experts, {**sizes, **places}
    yield "unchoose", route_kernel._unchoose, "unchoose", experts, {**sizes, **block}
    for step, function in (
        ("spread", rows_kernel._spread),
        ("sum", rows_kernel._total),
        ("swiglu", rows_kernel._swiglu),
        ("swiglu_backward", rows_kernel._swiglu_backward),
    ):
        each = tile(Shape(step, 90, WIDTH))
        constants = {"WIDTH": WIDTH, "BLOCK_ROWS": each.rows, "BLOCK_COLUMNS": each.columns}
        active = {"ACTIVE": ACTIVE} if "ACTIVE" in function.arg_names else {}
        yield step, function, step, WIDTH, {**constants, **active}


def products(left, right):
    """Return the PTX of the kernel of gradients of weights."""
    sizes = product_tile(ProductShape(90, left, right, 2))
    gathers = left > right // 2
    # under autocast tokens are in fp32
    numbered = {"left": "*fp32" if gathers else "*bf16", "right": "*bf16", "order": "*i32", "ends": "*i32"}
    types = {f"{name}_{step}": kind for name, kind in numbered.items() for step in range(PRODUCT_STEPS)}
    types |= {"total": "*fp32", "left_stride": "i32", "right_stride": "i32"}
    blocks = {"BLOCK_LEFT": sizes.left, "BLOCK_RIGHT": sizes.right, "BLOCK_ROWS": sizes.rows}
    flags = {"ACTIVE": ACTIVE, "STEPS": PRODUCT_STEPS, "ADD": True, "GATHER_LEFT": gathers}
    constants = {"LEFT": left, "RIGHT": right, **flags, **blocks}
    options = {"num_warps": sizes.warps, "num_stages": sizes.stages}
    return ptx(weights_kernel._add_products, types, constants, {*types}, **options)


def gathered(kind):
    """Return the PTX of the kernel of the first product, of tokens of a type."""
    width, hidden = 1024, 512
    sizes = gather_tile(ProductShape(90, width, hidden, 2))
    types = {"x": kind, "weights": "*fp32", "order": "*i32", "ends": "*i32", "stride": "i32"}
    types |= dict.fromkeys(("matrices", "both", "inner"), "*bf16")
    blocks = {"BLOCK_ROWS": sizes.rows, "BLOCK_COLUMNS": sizes.columns, "BLOCK_WIDTH": sizes.width}
    experts = {"EXPERTS": 64, "BLOCK_EXPERTS": 64, "ACTIVE": ACTIVE}
    constants = {"WIDTH": width, "HIDDEN": hidden, **experts, **blocks}
    options = {"num_warps": sizes.warps, "num_stages": sizes.stages}
    return ptx(gather_kernel._gate_up, types, constants, {*types}, **options)


if __name__ == "__main__":
    results = {}
    for name, function, step, width, constants in kernels(int(sys.argv[1])):
        text = compiled(function, step, width, **constants)
        results[name] = {
            "bytes": widest(text, "ld"),
            "spills": spills(text),
            "barriers": text.count("bar.sync"),
        }
    for left, right in ((1024, 1024), (512, 1024)):
        text = products(left, right)
        results[f"products {left}"] = {"cores": "wgmma.mma_async" in text, "spills": spills(text)}
    for kind in ("*bf16", "*fp32"):
        text = gathered(kind)
        results[f"gathered {kind}"] = {"cores": "wgmma.mma_async" in text, "spills": spills(text)}
    print(json.dumps(results))
