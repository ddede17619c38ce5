"""The folder of a run: its files, who may write to it, and how a trained model is read from it.

spec.yaml           the resolved spec
data.json           its training data: size and hash of each file; only if the data have files
cost.json plan.txt  its costs, and the kernel of each operation with the reason
metrics.csv         losses and scores over the steps
last.ckpt           the state that the run resumes from
stable.ckpt         the state that a longer run continues from: before the learning rate falls
stable-best.ckpt    best.ckpt at that time
schedules.json      each earlier train.schedule of a run that was extended
best.ckpt           the weights with the lowest evaluation loss, as a Lightning checkpoint
model.safetensors   the same weights alone
start.safetensors   the weights of another run that it began from, if it did
lock                held by the training process
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from composer.language.description.show import document, resolved_yaml
from composer.language.load import load
from composer.language.schema.identity import run_hash
from composer.language.schema.spec import Spec
from composer.settings.errors import SpecError, os_message, shown
from composer.training.folder.data_record import DATA, PLACE, check_data, record_data
from composer.training.folder.errors import TrainingError
from composer.training.folder.files import ASIDE, locked, write_text

if TYPE_CHECKING:
    from composer.costs.counting.plan import Plan
    from composer.module.model import ComposedModel

SPEC, COST, PLAN, METRICS = "spec.yaml", "cost.json", "plan.txt", "metrics.csv"
LAST, BEST, WEIGHTS, LOCK = "last.ckpt", "best.ckpt", "model.safetensors", "lock"
STABLE, STABLE_BEST, SCHEDULES = "stable.ckpt", "stable-best.ckpt", "schedules.json"
START = "start.safetensors"

Lengthen: TypeAlias = Callable[[Path, Spec, Spec], None]
"""Prepares the run of the first spec in a folder so that the second spec continues it, or refuses."""

LENGTH = ("train.tokens", "train.schedule.")
"""The fields, or prefixes of fields, that may change when a run is extended."""
_LOOKED_AT = 50
"""Most folders that are searched for a shorter run."""


def default_folder(spec: Spec) -> Path:
    """Return `runs/<name>-<run hash>`, the default folder of a run."""
    return Path("runs") / f"{spec.name}-{run_hash(spec)}"


def shorter_run(spec: Spec) -> Path | None:
    """Return the default folder of the same run with fewer tokens, if `spec` has no folder yet.

    With `--out` that run could be extended instead of training a new one from the start.
    """
    own = default_folder(spec)
    if own.exists() or spec.train is None:
        return None
    for kept in sorted(own.parent.glob(f"{escape(spec.name)}-*/{STABLE}"))[:_LOOKED_AT]:
        try:
            there = read_spec(kept.parent)
        except TrainingError:
            continue
        longer = there.train is not None and there.train.tokens < spec.train.tokens
        if longer and all(key.startswith(LENGTH) for key in differing(there, spec)):
            return kept.parent
    return None


@contextmanager
def held(
    folder: Path, plan: Plan, here: Plan | None = None, lengthen: Lengthen | None = None
) -> Iterator[None]:
    """Create or enter the run folder of a plan's spec, and lock it.

    `here` is the plan for this machine, by default `plan`. `lengthen` is called for a folder whose spec
    differs only in tokens and schedule; without it such a folder is refused.

    Raises:
        TrainingError: the folder is used by another process, is no run folder, belongs to another spec, or
            cannot be made.
        DataChanged: its data have changed since the run began.
        OSError: it cannot be written to.
    """
    spec = plan.spec
    if folder.exists() and not folder.is_dir():
        raise TrainingError(f"{folder}: expected a folder for the run, got a file")
    if folder.is_dir() and not (folder / SPEC).exists():
        own = (LOCK, DATA, DATA + ASIDE, SPEC + ASIDE)
        others = sorted(path.name for path in folder.iterdir() if path.name not in own)
        if others:
            raise TrainingError(
                f"{folder}: not a run folder (it contains {others[0]}); choose another with --out"
            )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(os_message(error, folder)) from None

    def busy(pid: str) -> TrainingError:
        return TrainingError(f"{folder}: process {pid} is training here; wait for it or stop it")

    with locked(folder / LOCK, busy):
        if (folder / SPEC).exists():
            _enter(folder, spec, lengthen)
            record_data(folder, spec)
        else:
            record_data(folder, spec)
            write_text(folder / SPEC, resolved_yaml(spec))
        for leftover in folder.glob(f"*{ASIDE}"):
            leftover.unlink()
        _describe(folder, plan, here or plan)
        yield


def read_spec(folder: Path) -> Spec:
    """Return the spec of a run folder.

    Raises:
        TrainingError: it has no readable spec.
    """
    path = folder / SPEC
    if not path.is_file():
        raise TrainingError(f"{folder}: expected a run folder, but there is no {SPEC} in it")
    try:
        return load(path, stored=True)
    except SpecError as error:
        raise TrainingError(f"{path}: the spec of this run cannot be read:\n{error}") from None


def load_run(folder: Path, weights: Literal["best", "last"] = "best") -> ComposedModel:
    """Return the model of a run folder with its best or last weights, on the CPU, in evaluation mode.

    Raises:
        TrainingError: it is no run folder, has no such weights, or the model is too large.
    """
    from composer.training.folder.build import build
    from composer.training.folder.checkpoint import put_weights, read_checkpoint, read_weights, weights_of

    spec, path = read_spec(folder), weights_file(folder, weights)
    model = build(spec)
    stored = read_weights(path)[0] if weights == "best" else weights_of(read_checkpoint(path), path)
    put_weights(model, stored, path)
    return model.eval()


def weights_file(folder: Path, weights: str) -> Path:
    """Return the file of a run's "best" or "last" weights.

    Raises:
        TrainingError: there is none, or `weights` is another word.
    """
    files = {"best": folder / WEIGHTS, "last": folder / LAST}
    if weights not in files:
        raise TrainingError(f"weights: expected 'best' or 'last', got {weights!r}")
    if not files[weights].exists():
        others = [f"{name} weights, {path.name}" for name, path in files.items() if path.exists()]
        have = f"it has {others[0]}" if others else "it was never evaluated or saved"
        raise TrainingError(f"{folder}: this run has no {weights} weights yet; {have}")
    return files[weights]


def _describe(folder: Path, plan: Plan, here: Plan) -> None:
    """Write the costs of the spec and its plan for this machine."""
    if not (folder / COST).exists():
        write_text(folder / COST, json.dumps(plan.costs.to_dict(), indent=2) + "\n")
    now, path = here.text.rstrip() + "\n", folder / PLAN
    if not path.exists() or path.read_bytes() != now.encode():
        write_text(path, now)


def _enter(folder: Path, spec: Spec, lengthen: Lengthen | None) -> None:
    """Refuse another spec than the folder's, unless it extends the run, and changed data."""
    there = read_spec(folder)
    keys = differing(there, spec)
    longer = [key for key in keys if key not in PLACE]
    if longer and (lengthen is None or not all(key.startswith(LENGTH) for key in longer)):
        old, new = _flat(there), _flat(spec)
        changes = [f"  {key}: {old.get(key, 'nothing')} -> {new.get(key, 'nothing')}" for key in keys]
        message = "\n".join(["the run in this folder is of another spec (there -> now):", *changes])
        raise TrainingError(f"{folder}: {message}\nchoose another folder with --out")
    check_data(folder, spec, moved=len(keys) > len(longer))
    if longer:
        assert lengthen is not None
        lengthen(folder, there, spec)
    if keys:
        # last, so that a run killed before this starts from scratch
        (folder / COST).unlink(missing_ok=True)
        write_text(folder / SPEC, resolved_yaml(spec))


def differing(there: Spec, spec: Spec) -> list[str]:
    """Return the dotted keys in which the runs of two specs differ."""
    old, new = _flat(there), _flat(spec)
    return [key for key in dict.fromkeys([*old, *new]) if old.get(key) != new.get(key)]


def _flat(spec: Spec) -> dict[str, str]:
    """Return the identity of a run as dotted keys with text values, without its name and caps."""

    def walk(value: Any, path: str) -> Iterator[tuple[str, str]]:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            here = f"{path}.{key}" if path else str(key)
            if isinstance(item, dict | list | tuple):
                yield from walk(item, here)
            else:
                yield here, shown(item)

    return dict(walk({key: part for key, part in document(spec).items() if key not in ("name", "caps")}, ""))
