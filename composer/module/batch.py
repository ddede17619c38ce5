"""Reads batches in the forms that a model accepts; errors say which form was received."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from blocks.wiring.loss.cross_entropy.reference import IGNORED

_FORMS = (
    "(tokens, targets), a dict with `tokens` and `targets`, or a dict with `input_ids` and `labels`, "
    "of integer tensors [batch, sequence]"
)
_KEYS = {
    "targets": ({"tokens", "targets"}, {"group"}),
    "labels": ({"input_ids", "labels"}, {"attention_mask"}),
}


class Batch(NamedTuple):
    """One micro-batch.

    Attributes:
        tokens: int64 [batch, sequence].
        targets: int64 [batch, sequence], the desired output at the same position; -100 is not scored.
        group: int64 [batch], the difficulty of each sequence by which metrics are grouped, or None.
    """

    tokens: Tensor
    targets: Tensor
    group: Tensor | None = None


def read_batch(batch: Any) -> Batch:
    """Return the tokens and targets of a batch.

    A pair (tokens, targets), and a dict with `tokens`, `targets` and optionally `group`, are used as they
    are: the target at a position is the desired output there, for language the next token. A dict with
    `input_ids` and `labels` follows Hugging Face: labels stand at the position of their own token, and are
    shifted here. In both, -100 is not scored. An `attention_mask` may hide the end of a sequence, which is
    then not scored.

    Raises:
        ValueError: the batch has another form.
    """
    if isinstance(batch, Mapping):
        return _from_mapping(batch)
    if isinstance(batch, tuple | list) and len(batch) == 2 and all(map(torch.is_tensor, batch)):
        return Batch(as_tokens(batch[0]), as_targets(batch[1], batch[0]))
    raise _other(batch)


def read_tokens(batch: Any) -> Tensor:
    """Return the tokens of a batch that needs no targets: a tensor, alone or in a list, or any batch.

    Raises:
        ValueError: the batch has another form.
    """
    if isinstance(batch, Mapping) and len(batch) == 1:
        batch = [*batch.values()] if {*batch} <= {"tokens", "input_ids"} else batch
    if isinstance(batch, tuple | list) and len(batch) == 1:
        batch = batch[0]
    return as_tokens(batch) if torch.is_tensor(batch) else read_batch(batch).tokens


def as_tokens(tokens: Any, name: str = "tokens") -> Tensor:
    """Return tokens as int64.

    Raises:
        ValueError: they are not an integer tensor [batch, sequence].
    """
    if not _holds_integers(tokens) or tokens.ndim != 2:
        raise ValueError(f"{name}: expected an integer tensor [batch, sequence], got {describe(tokens)}")
    checked: Tensor = tokens.long()
    return checked


def as_targets(targets: Any, tokens: Tensor, name: str = "targets") -> Tensor:
    """Return targets as int64.

    Raises:
        ValueError: they are not an integer tensor of the shape of the tokens.
    """
    if not _holds_integers(targets) or targets.shape != tokens.shape:
        shape = f"an integer tensor of the shape of the tokens, {[*tokens.shape]}"
        raise ValueError(f"{name}: expected {shape}, got {describe(targets)}")
    checked: Tensor = targets.long()
    return checked


def check_length(tokens: Tensor, context: int) -> None:
    """Check that sequences are not longer than `model.context`.

    Raises:
        ValueError: they are.
    """
    if tokens.shape[1] > context:
        expected = f"expected tokens [batch, sequence] with a sequence of at most {context}"
        raise ValueError(f"{expected} (model.context), got {list(tokens.shape)}")


def check_range(ids: Tensor, vocab: int, name: str, ignored: bool = False) -> None:
    """Check that ids are below `model.vocab`; skipped on GPUs and while tracing, where it would synchronize.

    Raises:
        ValueError: one is not, or is negative; with `ignored`, -100 may stand among them.
    """
    plain = type(ids) is Tensor and ids.device.type == "cpu" and not torch.compiler.is_compiling()
    if not plain or not ids.numel():
        return
    lowest, highest = (int(each) for each in ids.aminmax())
    if lowest < 0 and ignored:
        lowest = int(ids.masked_fill(ids == IGNORED, 0).amin())
    if lowest < 0 or highest >= vocab:
        wrong, but = (lowest if lowest < 0 else highest), f", or {IGNORED}" if ignored else ""
        raise ValueError(
            f"{name}: expected ids from 0 to {vocab - 1} (model.vocab is {vocab}){but}, got {wrong}"
        )


def describe(value: Any) -> str:
    """Describe a value that is not a batch, for error messages."""
    match value:
        case Tensor():
            return f"a {str(value.dtype).removeprefix('torch.')} tensor {[*value.shape]}"
        case Mapping():
            return f"a dict with the keys {', '.join(map(str, value)) or '(none)'}"
        case tuple() | list():
            kinds = ", ".join(map(describe, value[:3])) + (", ..." if len(value) > 3 else "")
            return (
                f"a {type(value).__name__} of {len(value)} ({kinds})"
                if value
                else f"an empty {type(value).__name__}"
            )
    return f"a value of type {type(value).__name__}"


def _from_mapping(batch: Mapping[str, Any]) -> Batch:
    needed, optional = _KEYS["labels" if "input_ids" in batch else "targets"]
    if not needed <= {*batch} <= needed | optional:
        raise _other(batch)
    if "input_ids" in batch:
        return _from_labels(batch["input_ids"], batch["labels"], batch.get("attention_mask"))
    tokens, group = as_tokens(batch["tokens"]), batch.get("group")
    if group is not None and not (_holds_integers(group) and group.shape == tokens.shape[:1]):
        raise ValueError(f"group: expected an integer tensor [{len(tokens)}], got {describe(group)}")
    return Batch(tokens, as_targets(batch["targets"], tokens), group)


def _from_labels(input_ids: Any, labels: Any, mask: Any) -> Batch:
    tokens = as_tokens(input_ids, "input_ids")
    labels = as_targets(labels, tokens, "labels")
    if mask is not None:
        seen = _seen(mask, tokens)
        labels = labels.masked_fill(~seen, IGNORED)
    return Batch(tokens, F.pad(labels[:, 1:], (0, 1), value=IGNORED))


def _seen(mask: Any, tokens: Tensor) -> Tensor:
    """Return where a mask is not 0. Masked tokens have to come last, because only causality hides them."""
    if not torch.is_tensor(mask) or mask.shape != tokens.shape:
        raise ValueError(f"attention_mask: expected a tensor {[*tokens.shape]}, got {describe(mask)}")
    seen = mask != 0
    if bool((seen[:, 1:] & ~seen[:, :-1]).any()):
        raise ValueError(
            "attention_mask: expected sequences that are padded at their end, got one with a masked token "
            "before one that is not; pad on the right (padding_side='right')"
        )
    return seen


def _holds_integers(value: Any) -> bool:
    return (
        isinstance(value, Tensor)
        and not (value.is_floating_point() or value.is_complex())
        and value.dtype != torch.bool
    )


def _other(batch: Any) -> ValueError:
    return ValueError(f"batch: expected {_FORMS}, got {describe(batch)}")
