"""Parts: what one unit of work leaves, complete or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from composer.data.base.errors import DataError, Interrupted
from composer.data.base.split import EVAL, TRAIN
from composer.data.base.stream import Ints
from composer.data.building.base.source import Options, Unit
from composer.data.building.find import formats
from composer.data.building.tokenizing import Encoded, Tokenizer, encoded

KEY = np.dtype([("high", ">u8"), ("low", ">u8")])
"""Sixteen bytes that tell documents apart."""
_DOCUMENTS_AT_ONCE = 4096


class Part(NamedTuple):
    """The documents of one unit, mapped from disk.

    Attributes:
        split: `train` for documents that are divided by their keys, or the held-out set of all of them.
        tokens: [tokens] uint32.
        places: [documents, 3]: end, the first scored token, scored bytes or -1.
        keys: [documents] of KEY.
    """

    split: str
    tokens: NDArray[Any]
    places: Ints
    keys: NDArray[Any]


def part_folder(work: Path, number: int) -> Path:
    """Return the folder of a part, which exists once it is complete."""
    return work / f"part-{number:06}"


def make_part(work: Path, number: int, unit: Unit, options: Options, known: Tokenizer) -> None:
    """Tokenize a unit, unless that was done.

    Raises:
        DataError: the unit cannot be read or tokenized.
        Interrupted: the part cannot be written.
    """
    folder = part_folder(work, number)
    if folder.exists():
        return
    # of its own process, so that one left over by a killed build is in nobody's way
    aside = work / f"{folder.name}.{os.getpid()}.tmp"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        _write(aside, unit, options, known)
        os.rename(aside, folder)
    except OSError as error:
        if not folder.exists():
            reason = error.strerror or error
            raise Interrupted(
                f"{work.parent}: {reason}, while writing part {number + 1}; give the command again to go on "
                "from the parts that are there"
            ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _write(folder: Path, unit: Unit, options: Options, known: Tokenizer) -> None:
    documents = _named(encoded(formats()[unit.format].documents(unit, options), options, known), unit)
    place, most = 0, -1
    names = ("tokens", "index", "keys")
    with (
        (folder / names[0]).open("wb") as tokens,
        (folder / names[1]).open("wb") as index,
        (folder / names[2]).open("wb") as keys,
    ):
        while some := [*islice(documents, _DOCUMENTS_AT_ONCE)]:
            sizes = np.array([len(each.tokens) for each in some], np.int64)
            ends = place + np.cumsum(sizes)
            scored = ends - sizes + [each.scored_from for each in some]
            rows = np.stack([ends, scored, [each.scored_bytes for each in some]], axis=1)
            flat = np.concatenate([each.tokens for each in some]).astype("<u4")
            tokens.write(flat.data.cast("B"))
            index.write(rows.astype("<i8").tobytes())
            keys.write(b"".join(each.key for each in some))
            place, most = int(ends[-1]), max(most, int(flat.max()))
    (folder / "part.json").write_text(json.dumps({"largest": most}))


def _named(documents: Iterator[Encoded], unit: Unit) -> Iterator[Encoded]:
    try:
        yield from documents
    except DataError as error:
        raise error if unit.path in str(error) else DataError(f"{unit.path}: {error}") from None


def largest_token(work: Path, number: int) -> int:
    """Return the largest token of a part, -1 if it is empty."""
    return int(json.loads((part_folder(work, number) / "part.json").read_bytes())["largest"])


def read_part(work: Path, number: int, unit: Unit) -> Part:
    """Map a complete part."""
    folder = part_folder(work, number)
    index = _mapped(folder / "index", np.dtype("<i8")).reshape(-1, 3)
    return Part(unit.split, _mapped(folder / "tokens", np.dtype("<u4")), index, _mapped(folder / "keys", KEY))


def _mapped(path: Path, dtype: np.dtype[Any]) -> NDArray[Any]:
    return np.memmap(path, dtype, "r") if path.stat().st_size else np.zeros(0, dtype)


def splits_of(part: Part, eval_fraction: float) -> NDArray[np.bool_]:
    """Tell which documents of a part are held out: by their content alone, so that copies stay together."""
    if part.split != TRAIN:
        return np.ones(len(part.keys), bool)
    bound = np.uint64(min(int(eval_fraction * 2**64), 2**64 - 1))
    inside: NDArray[np.bool_] = part.keys["high"].astype(np.uint64) < bound
    return inside


def held_out_name(part: Part) -> str:
    """Return the set that the held-out documents of a part belong to."""
    return EVAL if part.split == TRAIN else part.split
