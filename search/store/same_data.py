"""All runs of a search are trained on the same data: each record holds what its own was, by content."""

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
    """Return the `place` of a spec's data and the `digest` of its content; nothing without files.

    Raises:
        DataError: the data is missing or cannot be read.
    """
    return _mark(spec, fingerprint_of(spec))


def same_data(spec: Spec, records: Iterable[Record], folder: Path) -> dict[str, str]:
    """Return the mark of a spec's data, which is what the records of the same place were trained on.

    Raises:
        SearchError: it is not.
        DataError: the data is missing or cannot be read.
    """
    now = fingerprint_of(spec)
    mark = _mark(spec, now)
    for record in records if now is not None else ():
        if record.data.get("place") == mark["place"] and record.data["digest"] != mark["digest"]:
            assert now is not None
            told = "".join(f"  {change}\n" for change in changes(record, folder / record.folder, now))
            raise SearchError(
                f"{folder}: the data has changed since {record.kind} {record.name} was trained "
                f"(then -> now):\n"
                f"{told}results on different data cannot be compared; restore the data to continue the "
                "search, or start another one with --out"
            )
    return mark


def check_data(records: Iterable[Record], spec_of: Callable[[Record], Spec | None], folder: Path) -> None:
    """Refuse to go on with a search whose data has changed; warn where that cannot be known.

    Raises:
        SearchError: it has.
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
    """Say in what data differs from that of a record with the run folder `runs`; nothing if it does not.

    A record without a mark may have one in its run folder; without any, it is taken to be the same.
    """
    try:
        known = read_record(runs)
    except TrainingError:
        known = None
    digest = record.data.get("digest") or (known.fingerprint.digest if known else now.digest)
    if digest == now.digest:
        return []
    found = known.fingerprint.changes(now) if known else []
    return found or [f"sha256 {digest[:_DIGITS]} -> sha256 {now.digest[:_DIGITS]}"]


def _mark(spec: Spec, found: Fingerprint | None) -> dict[str, str]:
    if found is None:
        return {}
    data = spec.train.data if spec.train else None
    place = ", ".join(str(getattr(data, name, "")) for name in ("path", "glob"))
    return {"place": place, "digest": found.digest}
