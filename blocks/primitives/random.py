"""Counter-based random numbers: functions of a key [batch], int64, and the position within the row.

They are hashes, computed in 32-bit integers, and equal on every device, in every partition of a batch and
under recomputation. The global state of torch's generators is neither read nor changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from math import erf, prod, sqrt

import torch
from torch import Tensor

CUT = 3.0
"""The number of standard deviations at which normal noise is truncated."""


def digest(text: str) -> int:
    """Return the hash of a text, a signed 64-bit integer."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


@lru_cache(maxsize=4096)
def _of_place(place: str, index: int) -> int:
    return digest(f"{place}:{index}")


def derive_key(key: Tensor, place: str, index: int) -> Tensor:
    """Return the key [batch] of a place of use at a step, derived from the forward pass's key [batch]."""
    return key ^ _of_place(place, index)


def bits(key: Tensor, shape: Sequence[int], start: int | Tensor = 0) -> Tensor:
    """Return uniform int32 numbers [batch, *shape] for the positions of a row from `start` on.

    `start` is a number, or a tensor [batch] with one per row.
    """
    low, high = key.unsqueeze(-1).view(torch.int32).unsqueeze(-1).unbind(1)
    # a multiplicative hash; constants from https://github.com/skeeto/hash-prospector
    if isinstance(start, int):
        x = torch.arange(start, start + prod(shape), dtype=torch.int32, device=key.device)
    else:
        x = (start[:, None] + torch.arange(prod(shape), device=key.device)).int()
    x = x.mul_(-1640531527) ^ low
    for shift, factor in ((16, 0x21F0AAAD), (15, 0x735A2D97)):
        x.bitwise_xor_(_shifted(x, shift)).mul_(factor).add_(high)
    x.bitwise_xor_(_shifted(x, 15))
    return x.view(-1, *shape)


def _shifted(x: Tensor, by: int) -> Tensor:
    """Return x shifted right by `by` bits, filled with zeros (a logical shift)."""
    return (x >> by).bitwise_and_((1 << (32 - by)) - 1)


def uniform(key: Tensor, shape: Sequence[int], start: int | Tensor = 0) -> Tensor:
    """Return fp32 numbers [batch, *shape], uniform between 0 and 1, both excluded."""
    return (bits(key, shape, start) >> 9).float().add_(0.5).mul_(2.0**-23).add_(0.5)


def noise(x: Tensor, key: Tensor, std: float, start: int | Tensor = 0) -> Tensor:
    """Return normal noise like x [batch, ...], truncated at `CUT` standard deviations and scaled by `std`.

    x starts at position `start` of its row.
    """
    bound = erf(CUT / sqrt(2))
    drawn = uniform(key, x.shape[1:], start).to(torch.promote_types(x.dtype, torch.float32))
    return drawn.mul_(2).sub_(1).mul_(bound).erfinv_().mul_(std * sqrt(2)).to(x.dtype)


def dropout(x: Tensor, key: Tensor, training: bool, rate: float) -> Tensor:
    """Set elements of x [batch, ...] to 0 with probability `rate` and divide the others by 1 - `rate`.

    key: [batch]. Outside of training x is returned unchanged.
    """
    if not training:
        return x
    # an element is dropped if its bits are among the lowest `rate` of the 2 ** 32 values
    kept = bits(key, x.shape[1:]) >= min(round(rate * 2**32), 2**32 - 1) - 2**31
    return (x * kept).mul_(1 / (1 - rate))
