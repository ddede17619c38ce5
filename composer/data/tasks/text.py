"""text: byte-level language modelling of a file, a folder or one field of JSON lines.

Token ids are the bytes 0 .. 255 of UTF-8 text; 0xFF, which UTF-8 never uses, stands between documents.
The last `eval_fraction` of the bytes belongs to eval and the rest to train; no window crosses the boundary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from composer.data.base.config import DataConfig
from composer.data.base.errors import DataError
from composer.data.base.split import Split

if TYPE_CHECKING:
    from composer.data.base.codec import Codec
    from composer.data.base.fingerprint import Fingerprint
    from composer.data.base.stream import Batch, Bytes, Ints, Stream


class Text(DataConfig):
    """Next-byte prediction; the loss is also logged in bits per byte."""

    other_names: ClassVar[Mapping[str, str]] = {
        "path": "file files dir directory folder root data_dir data_path",
        "glob": "pattern include",
        "eval_fraction": "val_fraction val_split validation_split test_split eval_split",
        "field": "text_column column text_field content_key",
        "task": "lm language_modeling language_modelling language_model bytes char chars files jsonl",
    }

    task: Literal["text"] = "text"
    path: Annotated[str, Field(min_length=1)]
    """A file or folder, relative to the current directory; `.gz` files are decompressed."""
    glob: Annotated[str, Field(min_length=1)] | None = None
    """Files of a folder, such as `**/*.py`. Default: all except hidden ones."""
    field: Annotated[str, Field(min_length=1)] | None = None
    """For JSON lines: the key whose string is a document. Default: files are plain text."""
    eval_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """The share of the bytes, at the end, reserved for evaluation."""

    @property
    def vocab_needed(self) -> int:
        """One token per byte."""
        return 256

    @property
    def bytes_per_token(self) -> float:
        """A token is a byte."""
        return 1.0

    def document_end(self) -> int:
        """The byte that UTF-8 never uses."""
        return 0xFF

    def fingerprint(self) -> Fingerprint:
        """Hash the content of all files."""
        from composer.data.base.corpus import find_sources, fingerprint

        return fingerprint(self.path, find_sources(self.path, self.glob))

    def codec(self) -> Codec:
        """Bytes."""
        from composer.data.base.codec import Utf8

        return Utf8()

    def stream(self, split: Split, seed: int) -> Stream:
        """Read the text and open the windows of one split."""
        import numpy as np

        from composer.data.base.corpus import find_sources, read_text

        text = np.frombuffer(read_text(find_sources(self.path, self.glob), self.field), np.uint8)
        boundary = len(text) - round(len(text) * self.eval_fraction)
        part = text[:boundary] if split == "train" else text[boundary:]
        if len(part) <= self.length:
            raise DataError(
                f"{self.path}: {len(text)} bytes leave {len(part)} for {split} (eval_fraction "
                f"{self.eval_fraction}), but one window takes length + 1 = {self.length + 1}; "
                "give more text, a smaller length or another eval_fraction"
            )
        return TrainWindows(part, self.length, seed) if split == "train" else EvalWindows(part, self.length)


class TrainWindows:
    """Windows at random places of `text`, uint8 [bytes]."""

    def __init__(self, text: Bytes, length: int, seed: int) -> None:
        self.text, self.length, self.seed = text, length, seed

    def batch(self, step: int, size: int) -> Batch:
        """Batch number `step`."""
        from composer.data.base.stream import generator

        starts = generator("train", self.seed, step).integers(0, len(self.text) - self.length, size)
        return windows(self.text, starts, self.length)


class EvalWindows:
    """The windows of `text` that start every `length` bytes, so that each byte is scored at most once.

    They come in an order of which every beginning is spread evenly over the text, and then start over.
    """

    def __init__(self, text: Bytes, length: int) -> None:
        from composer.data.base.stream import spread

        self.text, self.length = text, length
        self.distinct = (len(text) - 1) // length
        self.stride = spread(self.distinct)

    def batch(self, step: int, size: int) -> Batch:
        """Batch number `step`, from window `step * size` on."""
        import numpy as np

        numbers = np.arange(step * size, (step + 1) * size)
        return windows(self.text, numbers * self.stride % self.distinct * self.length, self.length)


def windows(text: Bytes, starts: Ints, length: int) -> Batch:
    """Cut `length` tokens from each of `starts` [n]; the targets are one byte on."""
    import numpy as np

    from composer.data.base.stream import Batch

    rows = text[starts[:, None] + np.arange(length + 1)].astype(np.int64)
    return Batch(rows[:, :-1], rows[:, 1:], np.full(len(starts), -1))
