"""The gated delta rule by the Triton kernels of flash-linear-attention (the package `fla-core`)."""

from __future__ import annotations

from torch import Tensor


def mix(
    q: Tensor, k: Tensor, v: Tensor, write: Tensor, forget: Tensor, rate: Tensor, shift: Tensor
) -> Tensor:
    """Return the values that each query reads from the state after its token: [B, S, heads, value_dim].

    Shapes are those in `reference`. The kernels normalize queries and keys, scale queries by key_dim**-0.5
    and apply the nonlinearities of both gates, as the reference does. Products are in the dtype of q, k, v.
    """
    # loads all of fla's operations, which takes seconds
    from fla.ops.gated_delta_rule import chunk_gated_delta_rule

    y: Tensor
    y, _ = chunk_gated_delta_rule(
        q,
        k,
        v,
        g=forget,
        beta=write,
        use_qk_l2norm_in_kernel=True,
        use_gate_in_kernel=True,
        A_log=rate,
        dt_bias=shift,
        use_beta_sigmoid_in_kernel=True,
    )
    return y
