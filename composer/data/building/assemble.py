"""Putting parts together as shards: without what is held out elsewhere, and without repetitions if asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from composer.data.base.split import EVAL, TRAIN
from composer.data.building.base.source import Options, Unit
from composer.data.building.parts import KEY, Part, held_out_name, read_part, splits_of
from composer.data.tokens.manifest import SplitData
from composer.data.tokens.writer import SplitWriter, writing


@dataclass
class Dropped:
    """How many documents were left out, and why."""

    held_out: int = 0
    repeated: int = 0


class Chosen(NamedTuple):
    """Which documents go where.

    Attributes:
        parts: all documents.
        masks: for each split, those of each part that it takes.
        dropped: what no split takes.
    """

    parts: list[Part]
    masks: dict[str, list[NDArray[np.bool_]]]
    dropped: Dropped

    def counts(self) -> dict[str, int]:
        """Return the number of documents of each split."""
        return {split: sum(int(mask.sum()) for mask in masks) for split, masks in self.masks.items()}


def choose(work: Path, units: Sequence[Unit], options: Options) -> Chosen:
    """Divide the documents of all parts into splits.

    A document of a held-out source is in no other split, whether or not `options.dedupe` is set. With it,
    only the first of equal documents of a split is kept.
    """
    named = [*dict.fromkeys(unit.split for unit in units if unit.split != TRAIN)]
    parts = [read_part(work, i, unit) for i, unit in enumerate(units)]
    kept, dropped = _kept(parts, options)
    masks: dict[str, list[NDArray[np.bool_]]] = {}
    for split in (TRAIN, *([EVAL] if EVAL not in named else []), *named):
        masks[split] = []
        for part, mask in zip(parts, kept, strict=True):
            held = splits_of(part, options.eval_fraction)
            mine = held if held_out_name(part) == split else ~held if split == TRAIN else np.False_
            masks[split].append(mask & mine)
    return Chosen(parts, masks, dropped)


def write_shards(folder: Path, chosen: Chosen, options: Options, dtype: str) -> dict[str, SplitData]:
    """Write the shards of all splits that have documents, in the order of the units."""
    data_of: dict[str, SplitData] = {}
    for split, count in chosen.counts().items():
        if count:
            with writing(folder, split, dtype, options.shard_tokens) as writer:
                for part, mask in zip(chosen.parts, chosen.masks[split], strict=True):
                    _copy(writer, part, np.flatnonzero(mask))
                data_of[split] = writer.finish()
    return data_of


def _kept(parts: Sequence[Part], options: Options) -> tuple[list[NDArray[np.bool_]], Dropped]:
    """Return which documents of each part are kept."""
    kept, dropped = [np.ones(len(part.keys), bool) for part in parts], Dropped()
    named = [part.keys for part in parts if part.split != TRAIN]
    if named:
        held = np.unique(np.concatenate(named))
        for part, mask in zip(parts, kept, strict=True):
            if part.split == TRAIN:
                mask &= ~np.isin(part.keys, held)
                dropped.held_out += int((~mask).sum())
    if options.dedupe:
        for split in dict.fromkeys(part.split for part in parts):
            mine = [i for i, part in enumerate(parts) if part.split == split]
            first = _first([parts[i].keys[kept[i]] for i in mine])
            for i, new in zip(mine, first, strict=True):
                dropped.repeated += int((~new).sum())
                kept[i][np.flatnonzero(kept[i])[~new]] = False
    return kept, dropped


def _first(keys: Sequence[NDArray[Any]]) -> list[NDArray[np.bool_]]:
    """Tell in each of several arrays which keys were not there before."""
    every = np.concatenate([*keys, np.zeros(0, KEY)])
    mask = np.zeros(len(every), bool)
    mask[np.unique(every, return_index=True)[1]] = True
    return np.split(mask, np.cumsum([len(each) for each in keys]))[:-1]


def _copy(writer: SplitWriter, part: Part, documents: NDArray[np.int64]) -> None:
    """Copy documents, those side by side at once."""
    for run in np.split(documents, np.flatnonzero(np.diff(documents) != 1) + 1):
        if not len(run):
            continue
        begin = int(part.places[run[0] - 1, 0]) if run[0] else 0
        ends, scored, sizes = np.asarray(part.places[run[0] : run[-1] + 1]).T
        known = None if (sizes < 0).any() else int(sizes.sum())
        writer.add(part.tokens[begin : ends[-1]], ends - begin, scored - begin, known)
