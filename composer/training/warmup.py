"""The warmup of an extended run: as many optimizer steps as it was trained with.

`train.schedule` is in shares of the run, so the same shares of more tokens mean a longer warmup than the run
had. The spec then gets the share that gives as many optimizer steps as before. The run's earlier shares are
kept in its folder, so that the same command works again.
"""

from __future__ import annotations

import json
from pathlib import Path

from composer.language.schema.spec import Schedule, Spec, Train
from composer.module.optimization.schedule import decay_start, warmup_steps
from composer.settings.errors import os_message
from composer.training.folder.data_record import PLACE
from composer.training.folder.errors import TrainingError
from composer.training.folder.files import write_text
from composer.training.folder.run_folder import LAST, LENGTH, SCHEDULES, SPEC, differing, read_spec


def keep_warmup(folder: Path, spec: Spec) -> Spec:
    """Return `spec` with the warmup that the run in `folder` had, if it extends that run.

    That is where `spec` differs in nothing but tokens and schedule, has a schedule that the run has or had,
    and its warmup would be longer than that of the run. Otherwise `spec` is returned as it is.

    Raises:
        TrainingError: a file of the run cannot be read.
    """
    try:
        if not (folder / SPEC).exists() or not (folder / LAST).exists():
            return spec  # nothing was trained that could be kept
        return _kept(folder, spec)
    except OSError as error:
        raise TrainingError(os_message(error, error.filename or folder)) from None


def _kept(folder: Path, spec: Spec) -> Spec:
    there = read_spec(folder)
    if not all(key in PLACE or key.startswith(LENGTH) for key in differing(there, spec)):
        return spec
    old, new = there.train, spec.train
    if old is None or new is None or warmup_steps(new) <= max(1, warmup_steps(old)):
        return spec
    if new.schedule != old.schedule and new.schedule not in _earlier(folder):
        return spec
    schedule = with_warmup(new, warmup_steps(old))
    assert schedule is not None  # a shorter warmup always fits
    kept = new.model_copy(update={"schedule": schedule})
    if _rates(kept) == _rates(old):
        kept = new.model_copy(update={"schedule": old.schedule})
    return spec.model_copy(update={"train": kept})


def with_warmup(train: Train, steps: int) -> Schedule | None:
    """Return the schedule of `train` with `steps` optimizer steps of warmup, or None if it has fewer.

    The share of the warmup is the shortest number that makes exactly `steps`. The decay keeps its share as
    far as there is room, and the rest is stable.
    """
    if steps > train.steps:
        return None
    rounded = (float(f"{steps / train.steps:.{digits}g}") for digits in range(1, 18))
    warmup = next(share for share in rounded if share <= 1 and round(share * train.steps) == steps)
    decay = min(train.schedule.decay, round(1 - warmup, 9))
    shares = {"warmup": warmup, "stable": max(0.0, round(1 - warmup - decay, 9)), "decay": decay}
    return train.schedule.model_copy(update=shares)


def schedule_text(schedule: Schedule) -> str:
    """Format a schedule as YAML on one line, for a message or a `--set`."""
    shown = {name: getattr(schedule, name) for name in ("warmup", "stable", "decay")}
    fields = [f"{name}: {share!r}" for name, share in shown.items()]
    usual = type(schedule).model_fields["shape"].default
    fields += [f"shape: {schedule.shape}"] * (schedule.shape != usual)
    return f"{{{', '.join(fields)}}}"


def record_schedule(folder: Path, schedule: Schedule) -> None:
    """Append a run's current schedule to the file of its earlier schedules."""
    earlier = _earlier(folder)
    if schedule not in earlier:
        text = json.dumps([known.model_dump() for known in [*earlier, schedule]], indent=1)
        write_text(folder / SCHEDULES, f"{text}\n")


def _earlier(folder: Path) -> list[Schedule]:
    path = folder / SCHEDULES
    try:
        return [Schedule.model_validate(known) for known in json.loads(path.read_bytes())]
    except FileNotFoundError:
        return []
    except (ValueError, TypeError):
        raise TrainingError(
            f"{path}: expected the list of this run's earlier schedules, but it cannot be read; "
            f"delete it to continue with the schedule in {SPEC}"
        ) from None


def _rates(train: Train) -> tuple[int, int, int]:
    """Return the values that determine the learning rate of every optimizer step."""
    return train.steps, warmup_steps(train), decay_start(train)
