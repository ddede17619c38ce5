"""Matrix products that add to a sum in fp32, as tensor cores do within one product."""

from __future__ import annotations

import torch
from torch import Tensor


def add_product(total: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    """Return total + a @ b in fp32, in the place of `total` [n, m]; the product alone where it is None.

    On a GPU nothing is rounded to the dtype of a [n, k] and b [k, m] on the way.
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
