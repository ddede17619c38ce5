"""The base of every data config: what a task must say about itself before torch or numpy are needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Protocol

from blocks.base.config import Config, Problem
from blocks.base.fields import Count
from blocks.base.invalid import independent
from composer.data.base.split import Split
from composer.settings.types import DefaultsTo

if TYPE_CHECKING:
    from composer.data.base.codec import Codec
    from composer.data.base.fingerprint import Fingerprint
    from composer.data.base.stream import Stream


class ModelSize(Protocol):
    """What a task checks of the model."""

    @property
    def vocab(self) -> int:
        """Number of token ids."""

    @property
    def context(self) -> int:
        """Longest sequence, in tokens."""


class DataConfig(Config):
    """The config of one task or data set.

    A subclass sets `task: Literal["name"] = "name"`; the name is what a spec writes.
    """

    task: str
    length: Annotated[Count, DefaultsTo("model.context")]
    """Tokens per sequence."""

    @property
    def vocab_needed(self) -> int:
        """How many token ids the batches use: ids are 0 .. vocab_needed - 1."""
        raise NotImplementedError

    @property
    def group_names(self) -> Mapping[int, str] | None:
        """Metric suffix of each group of sequences (`{4: "k4"}`); None if the task has no groups."""
        return None

    @property
    def bytes_per_token(self) -> float | None:
        """UTF-8 bytes that one token stands for, which gives bits per byte; None if that has no meaning."""
        return None

    @property
    def metrics(self) -> list[str]:
        """The names of what an evaluation measures, in order."""
        per_byte = ["bits_per_byte"] if self.bytes_per_token else []
        groups = (self.group_names or {}).values()
        return ["loss", "accuracy", *per_byte, *(f"accuracy_{name}" for name in groups)]

    def problems(self, model: ModelSize) -> Iterator[Problem]:
        """Yield what a schema cannot say: that the sequences fit the model's context and vocabulary."""
        yield from independent(self._too_long(model), self._too_many(model))

    def _too_long(self, model: ModelSize) -> Iterator[Problem]:
        if self.length > model.context:
            yield Problem(
                "length", f"at most model.context ({model.context})", self.length, "raise model.context"
            )

    def _too_many(self, model: ModelSize) -> Iterator[Problem]:
        if self.vocab_needed > model.vocab:
            yield Problem(
                "task",
                f"a task of at most model.vocab ({model.vocab}) tokens",
                f"{self.task} with {self.vocab_needed} tokens",
                f"set model.vocab to {self.vocab_needed} or more",
            )

    def document_end(self) -> int | None:
        """Return the token that ends each document, None where sequences are not made of documents.

        Raises:
            DataError: it is not known, since the data is not there.
        """
        return None

    def fingerprint(self) -> Fingerprint | None:
        """Return what the data is by content; None for a task that makes its sequences and reads no files.

        A task whose data stands in files overrides this, and names their place in fields called `path` and
        `glob`: these two may differ where the content is the same.

        Raises:
            DataError: the data is missing or cannot be read.
        """
        return None

    def stream(self, split: Split, seed: int) -> Stream:
        """Open the batches of one split; no sequence of `train` is ever one of `eval`, whatever the seeds.

        Raises:
            DataError: the data is missing, malformed or too short.
        """
        raise NotImplementedError

    def codec(self) -> Codec:
        """Return how text becomes tokens and tokens become text: by default numbers, with spaces between.

        Raises:
            DataError: a file that says so is missing or cannot be read.
        """
        from composer.data.base.codec import Numbers

        return Numbers()
