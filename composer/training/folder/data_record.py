"""`data.json` of a run folder: what the run is trained on, and where that was found.

A run is bound to the content of its data. Their place may change, so they are also searched for in other
places by their content.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from composer.data.base.config import DataConfig
from composer.data.base.errors import DataChanged, DataError
from composer.data.base.fingerprint import Fingerprint
from composer.language.schema.spec import Spec
from composer.training.folder.errors import TrainingError
from composer.training.folder.files import write_text

DATA = "data.json"
PLACE = ("train.data.path", "train.data.glob")
"""The fields of a spec that say where data are, not what they are."""


@dataclass(frozen=True)
class DataRecord:
    """The data of a run.

    Attributes:
        fingerprint: of the data.
        path: as the spec gave it.
        directory: the directory that `path` is relative to.
        from_run: the same directory, relative to the run folder.
    """

    fingerprint: Fingerprint
    path: str
    directory: str
    from_run: str


def read_record(folder: Path) -> DataRecord | None:
    """Read the data record of a run folder; None without one.

    Raises:
        TrainingError: the file is damaged.
    """
    path = folder / DATA
    try:
        stored = json.loads(path.read_bytes())
        places = (str(stored[name]) for name in ("path", "directory", "from_run"))
        return DataRecord(Fingerprint.from_dict(stored), *places)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise TrainingError(
            f"{path}: expected the fingerprint of a run's data, but it cannot be read ({error}); "
            "delete it to record it again"
        ) from None


def fingerprint_of(spec: Spec) -> Fingerprint | None:
    """Return the current fingerprint of a spec's data; None without files or a `train` section.

    Raises:
        DataError: the data is missing or cannot be read.
    """
    data = spec.train.data if spec.train else None
    return data.fingerprint() if isinstance(data, DataConfig) else None


def without_place(spec: Spec) -> Spec:
    """Return a spec that does not say where its data are, to be hashed beside their fingerprint."""
    if spec.train is None:
        return spec
    blank: dict[str, str | None] = {"path": "", "glob": None}
    fields = type(spec.train.data).model_fields
    data = spec.train.data.model_copy(update={name: blank[name] for name in blank if name in fields})
    return spec.model_copy(update={"train": spec.train.model_copy(update={"data": data})})


def record_data(folder: Path, spec: Spec) -> None:
    """Write the data record of the run of `spec` in `folder`, if its data have files."""
    fingerprint = fingerprint_of(spec)
    if fingerprint is None:
        return
    assert spec.train is not None
    here = Path.cwd()
    path, from_run = getattr(spec.train.data, "path", ""), os.path.relpath(here, folder)
    record = fingerprint.to_dict() | {"path": path, "directory": str(here), "from_run": from_run}
    text = json.dumps(record, indent=1) + "\n"
    if not (folder / DATA).exists() or (folder / DATA).read_text(encoding="utf-8") != text:
        write_text(folder / DATA, text)


def check_data(folder: Path, spec: Spec, moved: bool) -> None:
    """Refuse to resume a run on other data than it began with; warn if that is unknown.

    `moved` says that the spec names another place than the folder does.

    Raises:
        DataChanged: the content differs, or it is not recorded and the place differs.
    """
    now, known = fingerprint_of(spec), read_record(folder)
    if now is None:
        return
    if known is None:
        message = f"{folder}: no {DATA}, because this run is older than data fingerprints"
        if moved:
            raise DataChanged(f"{message}; it can only resume with the data at the path in its own spec")
        warnings.warn(f"{message}; the current data is assumed to be the same and is recorded", stacklevel=2)
    elif changes := known.fingerprint.changes(now):
        raise DataChanged(
            f"{folder}: the data has changed since this run began (then -> now):\n"
            + "".join(f"  {change}\n" for change in changes)
            + "restore the data, or choose another folder with --out"
        )


def located(spec: Spec, folder: Path, given: str | None = None) -> Spec:
    """Return the spec of a run with the current place of its data, identified by content.

    It is searched at the path `given`, or else at that of the spec: relative to the current directory, to
    where the run was trained, and to that place as seen from the run folder. A run without a record is
    unchanged.

    Raises:
        DataError: it is in none of these places.
    """
    known = read_record(folder)
    if known is None or spec.train is None:
        return spec if given is None or spec.train is None else _at(spec, given)
    missing = []
    for path in dict.fromkeys([given] if given is not None else _places(known, folder)):
        candidate = _at(spec, path)
        try:
            fingerprint = fingerprint_of(candidate)
        except DataError as error:
            missing.append(str(error))
            continue
        changes = known.fingerprint.changes(fingerprint) if fingerprint else []
        if not changes:
            return candidate
        missing.append(f"{path}: other data (then -> there): {'; '.join(changes)}")
    raise DataError(
        f"{folder}: the data of this run was not found:\n"
        + "".join(f"  {reason}\n" for reason in missing)
        + "name its place with --data PATH, or score other data with --set train.data.path=PATH"
    )


def _places(known: DataRecord, folder: Path) -> Iterator[str]:
    yield known.path
    yield os.path.join(known.directory, known.path)
    yield os.path.normpath(os.path.join(folder, known.from_run, known.path))


def _at(spec: Spec, path: str) -> Spec:
    assert spec.train is not None
    if "path" not in type(spec.train.data).model_fields:
        raise DataError(f"--data {path}: expected none, for the task {spec.train.data.task} has no files")
    data = spec.train.data.model_copy(update={"path": path})
    return spec.model_copy(update={"train": spec.train.model_copy(update={"data": data})})
