"""What many blocks share by Triton kernels: the same functions as in `reference.py`, with the same gradients.

Off a GPU, where a model that was planned for one may be moved, the references run.
"""

from __future__ import annotations

import torch
from torch import Tensor

from blocks.kernels.tensors import fits
from blocks.primitives import library, reference


def add_norm(
    a: Tensor, b: Tensor, gain: Tensor, narrow: bool, shared: bool
) -> Tensor | tuple[Tensor, Tensor]:
    """Return (a + b) / rms(a + b) * gain, and a + b where it is shared; a, b: [batch, sequence, width].

    With `narrow` the first is in the precision that products are cast to.
    """
    if not fits(a, b, gain):
        return reference.add_norm(a, b, gain, narrow, shared)
    total = torch.promote_types(a.dtype, b.dtype)
    dtype = reference.product_dtype(a if a.dtype == total else b) if narrow else total
    made: tuple[Tensor, Tensor] = library.add_norm(a, b, gain, dtype)
    return made if shared else made[0]


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Rotate the pairs (2i, 2i + 1) of x [batch, sequence, heads, head_dim] by each token's rotation."""
    if not (fits(x) and table.dtype == torch.complex64):
        return reference.rotate(x, table)
    made: Tensor = library.rotate(x, table)
    return made


def norm_rotate(x: Tensor, table: Tensor, gain: Tensor) -> Tensor:
    """Norm each head of x [batch, sequence, heads, head_dim] by one gain [head_dim], then rotate it."""
    if not (fits(x, gain) and table.dtype == torch.complex64):
        return reference.norm_rotate(x, table, gain)
    made: Tensor = library.norm_rotate(x, table, gain)
    return made
