"""The folder of a run: what stands in it, who may write to it, and how a trained model is read from it.

spec.yaml           the resolved spec
data.json           what it is trained on: size and hash of each file; only where data stands in files
cost.json plan.txt  what it costs, and which kernel runs what and why
metrics.csv         losses and scores over the steps
last.ckpt           where the run goes on from
stable.ckpt         where a longer run goes on from: the state before the learning rate falls
stable-best.ckpt    best.ckpt as of then
schedules.json      each train.schedule that the run had before it was asked for more tokens
best.ckpt           the weights with the lowest evaluation loss, as a Lightning checkpoint
model.safetensors   the same weights alone
lock                held by the process that trains
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

Lengthen: TypeAlias = Callable[[Path, Spec, Spec], None]
"""Puts the run of the first spec, in a folder, where the second one goes on from; or refuses to."""

LENGTH = ("train.tokens", "train.schedule.")
"""The fields, or what their names begin with, that may change where a run goes on."""
_LOOKED_AT = 50
"""Folders that are looked at for a shorter run, at most."""


def default_folder(spec: Spec) -> Path:
    """Return `runs/<name>-<run hash>`, where a run stands unless told otherwise."""
    return Path("runs") / f"{spec.name}-{run_hash(spec)}"


def shorter_run(spec: Spec) -> Path | None:
    """Return the default folder of the same run with fewer tokens, where `spec` has no such folder yet.

    With `--out` that run would go on, instead of a new one being trained from the start.
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
    """Make the run folder of a plan's spec, or enter the one that stands there, and keep others out of it.

    `here` is the plan for this machine, by default `plan`. `lengthen` is called for a folder whose spec
    differs in nothing but its tokens and schedule; without it such a folder is refused.

    Raises:
        TrainingError: the folder is used by another process, is none of a run, that of another spec, or
            cannot be made.
        DataChanged: its data is not what the run began with.
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
        TrainingError: it has none that can be read.
    """
    path = folder / SPEC
    if not path.is_file():
        raise TrainingError(f"{folder}: expected a run folder, but there is no {SPEC} in it")
    try:
        return load(path)
    except SpecError as error:
        raise TrainingError(f"{path}: the spec of this run cannot be read:\n{error}") from None


def load_run(folder: Path, weights: Literal["best", "last"] = "best") -> ComposedModel:
    """Return the model of a run folder with its best or last weights, on the CPU, in evaluation mode.

    Raises:
        TrainingError: the folder is no run's, has no such weights, or the model is too large.
    """
    from composer.training.folder.build import build
    from composer.training.folder.checkpoint import put_weights, read_checkpoint, read_weights

    spec, path = read_spec(folder), weights_file(folder, weights)
    model = build(spec)
    found = read_weights(path)[0] if weights == "best" else read_checkpoint(path)["state_dict"]
    put_weights(model, found, path)
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
    """Write what the spec costs, wherever it runs, and its plan for this machine."""
    if not (folder / COST).exists():
        write_text(folder / COST, json.dumps(plan.costs.to_dict(), indent=2) + "\n")
    now, path = here.text.rstrip() + "\n", folder / PLAN
    if not path.exists() or path.read_bytes() != now.encode():
        write_text(path, now)


def _enter(folder: Path, spec: Spec, lengthen: Lengthen | None) -> None:
    """Refuse a spec other than that of the folder, unless it makes the same run longer, and other data."""
    there = read_spec(folder)
    keys = differing(there, spec)
    longer = [key for key in keys if key not in PLACE]
    if longer and (lengthen is None or not all(key.startswith(LENGTH) for key in longer)):
        old, new = _flat(there), _flat(spec)
        changes = [f"  {key}: {old.get(key, 'nothing')} -> {new.get(key, 'nothing')}" for key in keys]
        told = "\n".join(["the run in this folder is of another spec (there -> now):", *changes])
        raise TrainingError(f"{folder}: {told}\nchoose another folder with --out")
    check_data(folder, spec, moved=len(keys) > len(longer))
    if longer:
        assert lengthen is not None
        lengthen(folder, there, spec)
    if keys:
        # last, so that whoever is killed before this begins again
        (folder / COST).unlink(missing_ok=True)
        write_text(folder / SPEC, resolved_yaml(spec))


def differing(there: Spec, spec: Spec) -> list[str]:
    """Return the fields, as dotted keys, in which two specs make different runs."""
    old, new = _flat(there), _flat(spec)
    return [key for key in dict.fromkeys([*old, *new]) if old.get(key) != new.get(key)]


def _flat(spec: Spec) -> dict[str, str]:
    """Write what makes a run as dotted keys with values in words: not its name, nor what it may cost."""

    def walk(value: Any, path: str) -> Iterator[tuple[str, str]]:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            here = f"{path}.{key}" if path else str(key)
            if isinstance(item, dict | list | tuple):
                yield from walk(item, here)
            else:
                yield here, shown(item)

    return dict(walk({key: part for key, part in document(spec).items() if key not in ("name", "caps")}, ""))
