"""FLOPs of the Triton kernels of flash-linear-attention that the gated delta rule launches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any


def _flops(keys: int, values: int, systems: int, states: int, given: Mapping[str, Any]) -> float:
    """Return the FLOPs of a number of products of each size, per token and head.

    Args:
        keys: chunk x key_dim.
        values: chunk x value_dim.
        systems: chunk x chunk.
        states: key_dim x value_dim.
        given: the arguments of the launch.
    """
    length, chunk = given["T"], given["BT"]
    last = (length - 1) % chunk + 1
    squares, cubes = ((length - last) * chunk ** (power - 1) + last**power for power in (2, 3))
    key_dim, value_dim = given["K"], given.get("V", 0)
    pairs = squares * (keys * key_dim + values * value_dim)
    sequences = given["k"].shape[0]
    per_head = pairs + cubes * systems + length * key_dim * value_dim * states
    flops: float = 2.0 * sequences * given["HV"] * per_head
    return flops


PRODUCTS: Mapping[str, Callable[[Mapping[str, Any]], float]] = {
    "gated_delta_rule.chunk_gated_delta_rule_fwd_kkt_solve_kernel": partial(_flops, 1, 0, 0, 0),
    "gated_delta_rule.recompute_w_u_fwd_kernel": partial(_flops, 1, 1, 0, 0),
    "common.chunk_gated_delta_rule_fwd_kernel_h_blockdim64": partial(_flops, 0, 0, 0, 2),
    "common.chunk_fwd_kernel_o": partial(_flops, 1, 1, 0, 1),
    "common.chunk_bwd_kernel_dv_local": partial(_flops, 1, 1, 0, 0),
    "common.chunk_gated_delta_rule_bwd_kernel_dhu_blockdim64": partial(_flops, 0, 0, 0, 3),
    "common.chunk_bwd_kernel_dqkwg": partial(_flops, 2, 1, 0, 3),
    "gated_delta_rule.prepare_wy_repr_bwd_kernel": partial(_flops, 5, 2, 2, 0),
}
"""By the name of the kernel; the triangular systems are not counted."""
