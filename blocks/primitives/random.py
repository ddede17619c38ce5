"""Random numbers as functions of a key [batch], int64, and the position within the row.

They are hashes, computed in 32-bit integers: the same on every device, in every partition of a batch, and
when an operation is recomputed. The global state of torch's generators is neither read nor changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from math import erf, prod, sqrt

import torch
from torch import Tensor

CUT = 3.0
"""Standard deviations at which normal noise is cut off."""


def digest(text: str) -> int:
    """Return a text's hash, a signed 64-bit number."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


@lru_cache(maxsize=4096)
def _of_place(place: str, index: int) -> int:
    return digest(f"{place}:{index}")


def derive_key(key: Tensor, place: str, index: int) -> Tensor:
    """Return the key [batch] of a place of use at a step, from that of the forward pass [batch]."""
    return key ^ _of_place(place, index)


def bits(key: Tensor, shape: Sequence[int], start: int | Tensor = 0) -> Tensor:
    """Return uniform int32 numbers [batch, *shape], those of the positions in a row from `start` on.

    `start` may be one for each row, [batch].
    """
    low, high = key.unsqueeze(-1).view(torch.int32).unsqueeze(-1).unbind(1)
    # a multiplicative hash; constants from https://github.com/skeeto/hash-prospector
    if isinstance(start, int):
        position = torch.arange(start, start + prod(shape), dtype=torch.int32, device=key.device)
    else:
        position = (start[:, None] + torch.arange(prod(shape), device=key.device)).int()
    x = (position * -1640531527) ^ low
    for shift, factor in ((16, 0x21F0AAAD), (15, 0x735A2D97)):
        x.bitwise_xor_(_shifted(x, shift)).mul_(factor).add_(high)
    x.bitwise_xor_(_shifted(x, 15))
    return x.view(-1, *shape)


def _shifted(x: Tensor, by: int) -> Tensor:
    """Return the bits of x moved down, zeros after them."""
    return (x >> by).bitwise_and_((1 << (32 - by)) - 1)


def uniform(key: Tensor, shape: Sequence[int], start: int | Tensor = 0) -> Tensor:
    """Return numbers [batch, *shape], fp32, that are uniform between 0 and 1, both excluded."""
    return (bits(key, shape, start) >> 9).float().add_(0.5).mul_(2.0**-23).add_(0.5)


def noise(x: Tensor, key: Tensor, std: float, start: int | Tensor = 0) -> Tensor:
    """Return normal noise like x [batch, ...], cut off at `CUT` standard deviations before it is scaled.

    `start` numbers of each row come before x.
    """
    bound = erf(CUT / sqrt(2))
    drawn = uniform(key, x.shape[1:], start).to(torch.promote_types(x.dtype, torch.float32))
    return drawn.mul_(2).sub_(1).mul_(bound).erfinv_().mul_(std * sqrt(2)).to(x.dtype)


def dropout(x: Tensor, key: Tensor, training: bool, rate: float) -> Tensor:
    """Return x [batch, ...] with elements at 0 with a probability, the others divided by what is left of 1.

    key: [batch]. Outside of training x is returned as it is.
    """
    if not training:
        return x
    # of the 2 ** 32 values of the bits, the lowest share of them drops an element
    kept = bits(key, x.shape[1:]) >= min(round(rate * 2**32), 2**32 - 1) - 2**31
    return (x * kept).mul_(1 / (1 - rate))
