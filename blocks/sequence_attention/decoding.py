"""Generation with sequence attention: a row of the softmax, from cached keys and values.

q: [B, S, heads, head_dim]; k, v: [B, S, kv_heads, head_dim]. The prompt is computed at once, as in training;
then one token at a time.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from blocks.kernels.depth_slots import DepthSlots
from blocks.kernels.past import KVCache, Past, SelectedKVCache, VisibleKV
from blocks.primitives.decoding import next_rows
from blocks.primitives.reference import wide
from blocks.sequence_attention import reference
from blocks.sequence_attention.by_autograd import (
    attend_capped,
    attend_joint,
    attend_steps,
)
from blocks.sequence_attention.by_autograd import attend_first as attend_first_of_prompt
from blocks.sequence_attention.windowed import attend_windowed


def attend(q: Tensor, k: Tensor, v: Tensor, past: Past, *, place: str, use: int) -> Tensor:
    """Causal attention to cached and new tokens."""
    kept = past.keep(_held(v, past, place, use, past.capacity, 0), k, v)
    return reference.attend_causal(q, k, v) if kept is None else _attend_one(q, kept)


def attend_chosen(
    q: Tensor, k: Tensor, v: Tensor, past: Past, *, place: str, use: int, chosen_by: str
) -> Tensor:
    """Causal attention among the tokens that run the same step; inputs are [B, chosen, ...]."""
    held = past.held(place, use, lambda: SelectedKVCache(v, past.capacity))
    kept = held.keep(k, v, past.runs[chosen_by], first=not past.position)
    return reference.attend_causal(q, k, v) if kept is None else _attend_one(q, kept)


def keep_first(
    k: Tensor, v: Tensor, token: Tensor, memory: DepthSlots, past: Past, *, slot: int, **_: Any
) -> Tensor:
    """Write the keys and values of the first step, which all tokens run, to the slot and the cache."""
    past.keep(past.held(*memory.scope, lambda: KVCache(v, past.capacity)), k, v)
    memory.write(slot, k, v)
    return token


def attend_first(
    q: Tensor, places: Tensor, token: Tensor, memory: DepthSlots, past: Past, **_: Any
) -> Tensor:
    """Causal attention to the keys and values of the first step of all tokens."""
    if not past.position:
        return attend_first_of_prompt(q, places, token, memory)
    kept = past.held(*memory.scope, lambda: KVCache(memory.read(slice(1))[1][0], past.capacity))
    return _attend_one(q, kept.seen(past.positions))


def attend_window(
    q: Tensor, k: Tensor, v: Tensor, *mask_and_past: Any, window: int, sinks: int, place: str, use: int
) -> Tensor:
    """Attend to the last `window` tokens and the first `sinks` tokens; without a mask there are no sinks."""
    *mask, past = mask_and_past
    kept = past.keep(_held(v, past, place, use, window, sinks), k, v)
    if kept is not None:
        return _attend_one(q, kept)
    return reference.attend_masked(q, k, v, *mask) if mask else attend_windowed(q, k, v, window)


def attend_window_capped(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor,
    past: Past,
    *,
    window: int,
    sinks: int,
    cap: float,
    place: str,
    use: int,
) -> Tensor:
    """Do the same with scores cap * tanh(score / cap)."""
    kept = past.keep(_held(v, past, place, use, window, sinks), k, v)
    if kept is None:
        return attend_capped(q, k, v, mask, cap)
    query = _by_groups(q, kept.keys.shape[1])
    scores = (query @ wide(kept.keys).mT).mul_(q.shape[-1] ** -0.5 / cap).tanh_() * cap
    return (_masked(scores, kept).softmax(-1) @ wide(kept.values)).view(q.shape).to(v.dtype)


def attend_with_slots(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor,
    token: Tensor,
    memory: DepthSlots,
    past: Past,
    *,
    reads: int,
    window: int,
    sinks: int,
    place: str,
    use: int,
) -> Tensor:
    """Attend to tokens and to the token's own first `reads` slots with one softmax."""
    kept = past.keep(_held(v, past, place, use, window, sinks), k, v)
    if kept is None:
        return attend_joint(q, k, v, mask, token, memory, reads)
    query, tokens = _by_groups(q, kept.keys.shape[1]), kept.keys.shape[2]
    scores = _masked(query @ wide(kept.keys).mT, kept)
    if reads:
        own_keys, own_values = (wide(x[:, :, 0]).permute(1, 2, 0, 3) for x in memory.read(slice(reads)))
        scores = torch.cat((scores, query @ own_keys.mT), -1)
    weights = scores.mul_(q.shape[-1] ** -0.5).softmax(-1)
    y = weights[..., :tokens] @ wide(kept.values)
    if reads:
        y += weights[..., tokens:] @ own_values
    return y.view(q.shape).to(v.dtype)


def attend_all_steps(
    q: Tensor,
    mask: Tensor,
    token: Tensor,
    memory: DepthSlots,
    past: Past,
    *,
    reads: int,
    window: int,
    sinks: int,
    place: str,
    use: int,
) -> Tensor:
    """Attend to the tokens in each of the first `reads` slots; the last slot is cached now."""
    of_steps: list[KVCache] = past.held(*memory.scope, list)
    (key,), (value,) = memory.read(slice(reads - 1, reads))
    if len(of_steps) < reads:
        of_steps.append(KVCache(value, min(window + sinks, past.capacity), sinks))
    if past.keep(of_steps[reads - 1], key, value) is None:
        return attend_steps(q, mask, token, memory, reads)
    seen = [each.seen(past.positions) for each in of_steps[:reads]]
    keys, values = (
        torch.cat([wide(each) for each in given], 2)
        for given in ([each.keys for each in seen], [each.values for each in seen])
    )
    masks = [each.mask for each in seen if each.mask is not None]
    return _attend_one(wide(q), VisibleKV(keys, values, torch.cat(masks, -1) if masks else None)).to(q.dtype)


def next_yarn_rows(tokens: Tensor, past: Past, *, place: str, use: int, **sizes: Any) -> Tensor:
    """Return the rows of new tokens [batch, sequence] of a table of positions that YaRN rotates by."""
    return next_rows(tokens, past, reference.yarn_table, place, use, **sizes)


def next_mask(
    tokens: Tensor, past: Past, window: int | None, sinks: int = 0, *, place: str, use: int
) -> Tensor | None:
    """Return the mask of the prompt, or None for a single later token, which sees all cached tokens."""
    return None if past.position else reference.window_mask(tokens, window, sinks)


def _held(v: Tensor, past: Past, place: str, use: int, window: int, sinks: int) -> KVCache:
    size = min(window + sinks, past.capacity)
    return past.held(place, use, lambda: KVCache(v, size, min(sinks, size)))


def _attend_one(q: Tensor, kept: VisibleKV) -> Tensor:
    """Attend from one token, q [B, 1, heads, head_dim], to the visible cache."""
    keys, values, mask = kept
    # heads that share keys become several queries of one head
    query = q.to(values.dtype).reshape(len(q), keys.shape[1], -1, q.shape[-1])
    return F.scaled_dot_product_attention(query, keys, values, mask).reshape(q.shape)


def _masked(scores: Tensor, kept: VisibleKV) -> Tensor:
    """Return scores [B, kv_heads, queries, n] with -inf at empty cache entries."""
    return scores if kept.mask is None else scores.masked_fill(~kept.mask, -torch.inf)


def _by_groups(q: Tensor, groups: int) -> Tensor:
    """Return q [B, 1, heads, head_dim] as [B, groups, heads / groups, head_dim], at least in fp32."""
    return wide(q).reshape(len(q), groups, -1, q.shape[-1])
