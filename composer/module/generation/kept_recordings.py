"""Recordings of decoding steps, kept for later generations of the same model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

from torch import nn

from composer.module.capture.recorder import Recorder
from composer.module.generation.decoder import Decoder
from composer.module.generation.recorded import RecordedDecoder

_MOST = 2
"""Recordings of a model that are kept, the latest ones: each holds a KV cache."""

_KEPT: WeakKeyDictionary[nn.Module, list[RecordedDecoder]] = WeakKeyDictionary()


@contextmanager
def replaying(
    model: nn.Module, decoder: Decoder, rows: int, recorder: Recorder, required: bool
) -> Iterator[RecordedDecoder]:
    """Provide a decoder that replays its steps, from a recording of an earlier generation where one fits.

    Meanwhile no other generation can use this recording.

    Args:
        model: the model whose recordings are kept, as long as it exists.
        decoder: a new decoder of this model.
        rows: rows of the batch.
        recorder: records a step where no recording fits.
        required: whether a step that cannot be replayed is an error.
    """
    kept = _KEPT.setdefault(model, [])
    decode = _taken(kept, lambda each: each.begin(decoder, rows, required))
    if decode is None:
        decode = RecordedDecoder(decoder, recorder, required)
    try:
        yield decode
    except GeneratorExit:
        # the caller takes no more tokens
        _put(kept, decode)
        raise
    _put(kept, decode)


def _taken(kept: list[RecordedDecoder], fits: Callable[[RecordedDecoder], bool]) -> RecordedDecoder | None:
    """Remove and return the latest that fits."""
    for each in reversed(kept):
        if fits(each):
            kept.remove(each)
            return each
    return None


def _put(kept: list[RecordedDecoder], decode: RecordedDecoder) -> None:
    if decode.recorded:
        kept.append(decode)
        del kept[:-_MOST]
