"""tokens: next-token prediction on tokenized data of any size, as `composer data build` makes it.

A folder has a manifest and memory-mapped shards of tokens. Training passes over all sequences in random
order, and again in another; the held-out sets are never read by it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from blocks.base.config import Problem
from blocks.base.fields import Positive
from blocks.base.invalid import independent
from composer.data.base.config import DataConfig, ModelSize
from composer.data.base.errors import DataError
from composer.data.base.split import EVAL, TRAIN, Split
from composer.data.tokens.weights import BLOCK, shares
from composer.settings.errors import listed
from composer.settings.types import Many

if TYPE_CHECKING:
    from composer.data.base.codec import Codec
    from composer.data.base.fingerprint import Fingerprint
    from composer.data.base.stream import Batch, Stream
    from composer.data.tokens.manifest import Manifest
    from composer.data.tokens.windows import Windows


class Tokens(DataConfig):
    """Next-token prediction on a folder of tokenized data; held-out sets are scored by name."""

    other_names: ClassVar[Mapping[str, str]] = {
        "task": "tokenized tokenised shards memmap bin packed",
    }

    task: Literal["tokens"] = "tokens"
    path: Annotated[str, Field(min_length=1)]
    """A folder made by `composer data build`, or with `sources` a folder of them; as in `text`."""
    sources: dict[Annotated[str, Field(min_length=1)], Positive] = Field(default_factory=dict)
    """Folders below `path` by weight; each has its share of all sequences. Default: `path` alone."""
    documents: Literal["packed", "apart"] = "packed"
    """`packed`: sequences cross documents. `apart`: each has one document only, the rest is padding."""
    eval_sets: Annotated[Many[str], Field(min_length=1)] = (EVAL,)
    """The held-out sets that an evaluation scores, by name; several are also reported one by one."""

    def manifests(self) -> dict[str, Manifest]:
        """Read the manifest of each source.

        Raises:
            DataError: one is missing or damaged.
        """
        from composer.data.tokens.manifest import read_manifest

        if not self.sources:
            return {"": read_manifest(str(self.path))}
        return {name: read_manifest(str(Path(self.path, name))) for name in self.sources}

    @property
    def vocab_needed(self) -> int:
        """The tokenizer's number of token ids."""
        return max(manifest.vocab for manifest in self.manifests().values())

    @property
    def group_names(self) -> Mapping[int, str] | None:
        """A sequence's group is the held-out set that it is from, where there are several."""
        full = ["-".join(filter(None, [_short(source), name])) for source, name in self._evals()]
        short = [_short(source) for source, _ in self._evals()]
        named = short if len(self.eval_sets) == 1 else full
        return dict(enumerate(named)) if len(named) > 1 else None

    @property
    def bytes_per_token(self) -> float | None:
        """UTF-8 bytes per scored token of the held-out sets, an end of document counting as one."""
        manifests = self.manifests()
        splits = [manifests[source].split(name) for source, name in self._evals()]
        sizes = [split.scored_bytes for split in splits]
        tokens = sum(split.scored_tokens for split in splits)
        return sum(filter(None, sizes)) / tokens if None not in sizes and tokens else None

    @property
    def metrics(self) -> list[str]:
        """Also the loss of each held-out set, where there are several."""
        try:
            known = self.bytes_per_token is not None
        except DataError:
            known = True  # what is not there yet is taken for text
        names = (self.group_names or {}).values()
        each = [f"{metric}_{name}" for name in names for metric in ("loss", "accuracy")]
        return ["loss", "accuracy", *(["bits_per_byte"] if known else []), *each]

    def problems(self, model: ModelSize) -> Iterator[Problem]:
        """Yield also weights that are too unlike, and what the folder contradicts if it is there."""
        yield from independent(self._too_long(model), self._rare(), self._twice(), self._folder(model))

    def _rare(self) -> Iterator[Problem]:
        for name, share in zip(
            self.sources, shares([*self.sources.values()]) if self.sources else [], strict=True
        ):
            if share == 0:
                expected = f"a weight of at least 1/{BLOCK} of all"
                yield Problem(f"sources.{name}", expected, self.sources[name])

    def _twice(self) -> Iterator[Problem]:
        names = [_short(source) for source in self.sources]
        for source in self.sources:
            if names.count(_short(source)) > 1:
                yield Problem("sources", "folders of different names, which metrics are named by", source)
        for name in self.eval_sets:
            if self.eval_sets.count(name) > 1 or name == TRAIN:
                yield Problem("eval_sets", "names of different held-out sets", [*self.eval_sets])
                return

    def _folder(self, model: ModelSize) -> Iterator[Problem]:
        try:
            manifests = self.manifests()
        except DataError:
            return  # opening it says what is wrong; a spec is also checked where its data is not
        yield from self._too_many(model)
        for manifest in manifests.values():
            for name in self.eval_sets:
                if name not in manifest.held_out:
                    expected = f"held-out sets of {manifest.folder}: {listed(manifest.held_out, 'and')}"
                    yield Problem("eval_sets", expected, name)
        if len({manifest.tokenizer_sha256 or manifest.tokenizer for manifest in manifests.values()}) > 1:
            tokenizers = ", ".join(f"{name}: {each.tokenizer}" for name, each in manifests.items())
            yield Problem(
                "sources", "data of one tokenizer", tokenizers, "build them with the same --tokenizer"
            )

    def _evals(self) -> list[tuple[str, str]]:
        return [(source, name) for source in self.sources or [""] for name in self.eval_sets]

    def document_end(self) -> int | None:
        """That of the first source; all have one tokenizer."""
        return next(iter(self.manifests().values())).end_of_document

    def fingerprint(self) -> Fingerprint:
        """Return the hashes that the manifests hold; the files' sizes are checked, not their content."""
        from composer.data.base.fingerprint import FileMark, Fingerprint

        marks = [
            FileMark(f"{source}/{mark.file}" if source else mark.file, mark.size, mark.sha256)
            for source, manifest in self.manifests().items()
            for mark in manifest.fingerprint().files
        ]
        return Fingerprint(tuple(marks))

    def codec(self) -> Codec:
        """That of the first source; all have one tokenizer."""
        from composer.data.tokens.codec import codec_of

        return codec_of(next(iter(self.manifests().values())))

    def stream(self, split: Split, seed: int) -> Stream:
        """Map the files of one split."""
        manifests = self.manifests()
        if split == TRAIN:
            parts = [self._windows(manifest, TRAIN) for manifest in manifests.values()]
            return TrainSequences(parts, [*self.sources.values()] or [1.0], seed)
        return EvalSequences([self._windows(manifests[source], name) for source, name in self._evals()])

    def _windows(self, manifest: Manifest, split: str) -> Windows:
        from composer.data.tokens.shards import open_split
        from composer.data.tokens.windows import Apart, Packed, PackedOnce

        shards = open_split(manifest, split)
        if self.documents == "apart":
            padding = manifest.end_of_document or 0
            windows: Windows = Apart(shards, self.length, padding)
        else:
            windows = (Packed if split == TRAIN else PackedOnce)(shards, self.length)
        if not windows.count:
            raise DataError(
                f"{manifest.folder}: {split} has {manifest.split(split).tokens} tokens in "
                f"{manifest.split(split).documents} documents, but one sequence takes length + 1 = "
                f"{self.length + 1}; give more data or a smaller length"
            )
        return windows


class TrainSequences:
    """Passes over all sequences of each source in random order; sources take turns by weight."""

    def __init__(self, sources: list[Windows], weights: list[float], seed: int) -> None:
        from composer.data.tokens.mixture import Mixture

        self.sources, self.seed, self.mixture = sources, seed, Mixture(weights, seed)

    def batch(self, step: int, size: int) -> Batch:
        """Batch number `step`: sequences step * size to (step + 1) * size - 1 of the training."""
        import numpy as np

        from composer.data.base.stream import Batch
        from composer.data.tokens.shuffle import epoch_keys, shuffled

        source, before = self.mixture.draw(np.arange(step * size, (step + 1) * size))
        by_source: list[tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]] = []
        for i, windows in enumerate(self.sources):
            epochs = before // windows.count
            for epoch in np.unique(epochs[source == i]):
                mine = np.flatnonzero((source == i) & (epochs == epoch))
                key, offset = epoch_keys(self.seed, i, int(epoch), 2)
                numbers = shuffled(before[mine] % windows.count, windows.count, key)
                by_source.append((mine, windows.rows(numbers, offset)))
        tokens, targets = np.empty((2, size, by_source[0][1][0].shape[1]), np.int64)
        for mine, rows in by_source:
            tokens[mine], targets[mine] = rows
        return Batch(tokens, targets, np.full(size, -1))


class EvalSequences:
    """Every sequence of the held-out sets once, then again; every beginning is spread evenly over all."""

    def __init__(self, sets: list[Windows]) -> None:
        from composer.data.base.stream import spread

        self.sets = sets
        self.distinct = sum(windows.count for windows in sets)
        self.stride = spread(self.distinct)

    def batch(self, step: int, size: int) -> Batch:
        """Batch number `step`; the group is the set, -1 where there is one only."""
        import numpy as np

        from composer.data.base.stream import Batch

        numbers = np.arange(step * size, (step + 1) * size) * self.stride % self.distinct
        first = np.cumsum([0, *(windows.count for windows in self.sets)])
        group = np.searchsorted(first, numbers, side="right") - 1
        by_set = [(i, np.flatnonzero(group == i)) for i in np.unique(group)]
        rows = [self.sets[i].rows(numbers[mine] - first[i], 0) for i, mine in by_set]
        tokens, targets = np.empty((2, size, rows[0][0].shape[1]), np.int64)
        for (_, mine), each in zip(by_set, rows, strict=True):
            tokens[mine], targets[mine] = each
        return Batch(tokens, targets, group if len(self.sets) > 1 else np.full(size, -1))


def _short(source: str) -> str:
    return Path(source).name
