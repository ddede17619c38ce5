"""What is written on a block's card: a few short lines of its sizes and options."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from composer.draw.theme import TIMES
from composer.draw.view import Use
from composer.language.description.format_spec import value_words

Fields = dict[str, Any]
_MOST = 3
_CODES = {"rotary": "rotary over steps", "bias": "bias for each step", "none": "no step code"}
_ACTIVATIONS = {"swiglu": "SwiGLU", "gelu": "GELU"}


def card_lines(use: Use, width: int) -> list[str]:
    """Say what a block is, in at most three lines; a type that is not known here tells its own fields."""
    fields = use.block.canonical(width)
    tell = _KINDS.get(use.block.type)
    if tell is not None:
        return [line for line in tell(fields, width) if line][:_MOST]
    given = use.block.model_dump(exclude_defaults=True, exclude={"type"})
    return [f"{key} {value_words(value)}" for key, value in given.items()][:_MOST]


def _heads(fields: Fields) -> str:
    heads, kv_heads = fields["heads"], fields["kv_heads"]
    shared = "" if kv_heads == heads else f", {kv_heads} kv"
    return f"{heads} {'head' if heads == 1 else 'heads'} {TIMES} {fields['head_dim']}{shared}"


def _sequence(fields: Fields, width: int) -> Iterator[str]:
    yield _heads(fields)
    options = ["RoPE" if fields["rope"] else "no positions", "QK norm" if fields["qk_norm"] else ""]
    yield " · ".join(filter(None, options))
    yield f"window of {fields['window']}" if fields["window"] else "all earlier tokens"


def _depth(fields: Fields, width: int) -> Iterator[str]:
    yield _heads(fields)
    yield "rotary over steps" if fields["rotary"] else "no step code"
    yield "steps so far" if fields["span"] == "inclusive" else "earlier steps only"


def _experts(fields: Fields, width: int) -> Iterator[str]:
    yield f"{fields['active']} of {fields['experts']} experts"
    yield f"SwiGLU {width} → {fields['hidden']} → {width}"
    yield _CODES[fields["depth_code"]]


def _forward(fields: Fields, width: int) -> Iterator[str]:
    yield f"{width} → {fields['hidden']} → {width}"
    activation = str(fields["activation"])
    yield _ACTIVATIONS.get(activation, activation)


_KINDS: dict[str, Callable[[Fields, int], Iterator[str]]] = {
    "sequence_attention": _sequence,
    "depth_attention": _depth,
    "expert_attention": _experts,
    "feed_forward": _forward,
}
