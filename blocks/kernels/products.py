"""Matrix products accumulated in fp32."""

from __future__ import annotations

import torch
from torch import Tensor


def add_product(total: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    """Add a @ b to `total` [n, m], fp32, in place and return it; a new tensor if `total` is None.

    On a GPU nothing is rounded to the dtype of a [n, k] and b [k, m].
    """
    if total is None:
        total = torch.empty((a.shape[0], b.shape[1]), dtype=torch.float32, device=a.device)
        return _product(a, b, total)
    if a.dtype == total.dtype:
        return torch.addmm(total, a, b, out=total)
    if a.is_cuda:
        return torch.addmm(total, a, b, out_dtype=total.dtype, out=total)
    return total.add_(a.float() @ b.float())


def _product(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    if a.dtype == out.dtype:
        return torch.mm(a, b, out=out)
    if a.is_cuda:
        return torch.mm(a, b, out_dtype=out.dtype, out=out)
    return torch.mm(a.float(), b.float(), out=out)
