"""Dtypes and memory layouts that kernels support."""

from __future__ import annotations

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
"""The dtypes that kernels read and write; they compute in fp32."""


def fits(*tensors: Tensor) -> bool:
    """Return whether kernels can run on tensors."""
    return all(tensor.is_cuda and tensor.dtype in DTYPES for tensor in tensors)


def in_rows(x: Tensor) -> Tensor:
    """Return x as [rows, width] with contiguous rows, copied only if necessary."""
    rows = x.flatten(0, -2)
    return rows if rows.stride(1) == 1 else rows.contiguous()


def in_heads(x: Tensor) -> Tensor:
    """Return x as [tokens, heads, head_dim] with contiguous heads per token, copied only if necessary."""
    rows = x.flatten(0, 1)
    whole = rows.stride(2) == 1 and (rows.stride(1) == rows.shape[2] or rows.shape[1] == 1)
    return rows if whole else rows.contiguous()


def in_place(x: Tensor) -> Tensor:
    """Return a view of x as [tokens, heads, head_dim], for writing."""
    rows = in_heads(x)
    assert rows.data_ptr() == x.data_ptr(), "a copy would be written in its place"
    return rows


def as_output(x: Tensor) -> Tensor:
    """Return the output x of an autograd function, made by an operation that may return its own input.

    Compiled by torch 2.11 it would have no gradient, but a view of it has one.
    """
    return x.view(x.shape) if torch.compiler.is_compiling() else x
