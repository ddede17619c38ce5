"""The check that all runs of a search use the same data; each record has the digest of its own."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

from composer.data.base.fingerprint import Fingerprint
from composer.language.schema.spec import Spec
from composer.training.folder.data_record import fingerprint_of, read_record
from composer.training.folder.errors import TrainingError
from search.errors import SearchError
from search.store.ledger import Record

_DIGITS = 12


def data_mark(spec: Spec) -> dict[str, str]:
    """Return the `place` of a spec's data and the `digest` of their content; empty without files.

    Raises:
        DataError: the data is missing or cannot be read.
    """
    return _mark(spec, fingerprint_of(spec))


def same_data(spec: Spec, records: Iterable[Record], folder: Path) -> dict[str, str]:
    """Return the mark of a spec's data, after checking that records of the same place were trained on it.

    Raises:
        SearchError: they were trained on other data.
        DataError: the data is missing or cannot be read.
    """
    now = fingerprint_of(spec)
    mark = _mark(spec, now)
    for record in records if now is not None else ():
        if record.data.get("place") == mark["place"] and record.data["digest"] != mark["digest"]:
            assert now is not None
            text = "".join(f"  {change}\n" for change in changes(record, folder / record.folder, now))
            raise SearchError(
                f"{folder}: the data has changed since {record.kind} {record.name} was trained "
                f"(then -> now):\n"
                f"{text}results on different data cannot be compared; restore the data to continue the "
                "search, or start another one with --out"
            )
    return mark


def check_data(records: Iterable[Record], spec_of: Callable[[Record], Spec | None], folder: Path) -> None:
    """Refuse to resume a search whose data have changed; warn if that cannot be determined.

    Raises:
        SearchError: the data have changed.
        DataError: the data is missing or cannot be read.
    """
    known = list(records)
    for record in {record.data.get("place"): record for record in known}.values():
        spec = spec_of(record)
        if spec is None:
            continue
        mark = same_data(spec, known, folder)
        count = sum(bool(each.seen) and not each.data for each in known)
        if mark and count and not record.data:
            warnings.warn(
                f"{folder}: {count} runs began before fingerprints of data were kept; they are taken to be "
                "of the data that is there now",
                stacklevel=2,
            )


def changes(record: Record, runs: Path, now: Fingerprint) -> list[str]:
    """Return how data differ from those of a record with the run folder `runs`, or "".

    A record without a mark may have one in its run folder; without any, the data are assumed to be the same.
    """
    try:
        known = read_record(runs)
    except TrainingError:
        known = None
    digest = record.data.get("digest") or (known.fingerprint.digest if known else now.digest)
    if digest == now.digest:
        return []
    changed = known.fingerprint.changes(now) if known else []
    return changed or [f"sha256 {digest[:_DIGITS]} -> sha256 {now.digest[:_DIGITS]}"]


def _mark(spec: Spec, fingerprint: Fingerprint | None) -> dict[str, str]:
    if fingerprint is None:
        return {}
    data = spec.train.data if spec.train else None
    place = ", ".join(str(getattr(data, name, "")) for name in ("path", "glob"))
    return {"place": place, "digest": fingerprint.digest}
