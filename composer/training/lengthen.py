"""Extending a finished run by more tokens, from the state before its learning rate began to fall.

Under a warmup-stable-decay schedule a longer run is identical until the shorter one's decay begins.
A run keeps its state at that step, so extending it gives, bit by bit, the run that would have
been trained with as many tokens from the start.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from composer.language.description.show import resolved_yaml
from composer.language.schema.spec import Spec, Train
from composer.language.schema.steps import switches
from composer.module.optimization.schedule import decay_start, warmup_steps
from composer.training.folder.checkpoint import read_checkpoint, save_weights
from composer.training.folder.errors import TrainingError
from composer.training.folder.files import replacing
from composer.training.folder.run_folder import BEST, LAST, STABLE, STABLE_BEST, WEIGHTS
from composer.training.warmup import record_schedule, schedule_text, with_warmup


def lengthen(folder: Path, old: Spec, new: Spec) -> None:
    """Continue the run of `old` as `new`, which differs only in `train.tokens` and `train.schedule`.

    Raises:
        TrainingError: no checkpoint has the learning rates of the new schedule up to its step.
    """
    assert old.train is not None
    assert new.train is not None
    last, stable = _step(folder / LAST), _step(folder / STABLE)
    if last is None:
        return  # it has no checkpoint yet
    if _warmup(old.train) != _warmup(new.train):
        raise TrainingError(f"{folder}: {_other_warmup(old.train, new.train)}")
    if switches(old) != switches(new):
        raise TrainingError(f"{folder}: {_other_switch(old, new)}")
    alike = min(decay_start(old.train), decay_start(new.train))
    # if both are at one step, only the end of the shorter run has been evaluated
    back = stable is not None and stable <= alike and (last > alike or last == stable)
    if last > alike and not back:
        raise TrainingError(f"{folder}: {_too_far(old.train, new.train, last, stable)}")
    if old.train.schedule != new.train.schedule:
        record_schedule(folder, old.train.schedule)
    if back:
        _put_back(folder, new)


def _step(path: Path) -> int | None:
    return int(read_checkpoint(path)["global_step"]) if path.exists() else None


def _warmup(train: Train) -> int:
    return max(1, warmup_steps(train))  # a decay of one step is none


def _put_back(folder: Path, spec: Spec) -> None:
    """Make the state before the decay the latest checkpoint; idempotent."""
    text = resolved_yaml(spec)
    _copy(folder / STABLE, folder / LAST, text)
    if (folder / STABLE_BEST).exists():
        best = _copy(folder / STABLE_BEST, folder / BEST, text)
        save_weights(folder / WEIGHTS, best["state_dict"], text)
    else:
        for name in (BEST, WEIGHTS):
            (folder / name).unlink(missing_ok=True)


def _copy(source: Path, target: Path, spec: str) -> dict[str, Any]:
    checkpoint = read_checkpoint(source)
    checkpoint["hyper_parameters"]["spec"] = spec
    with replacing(target) as file:
        torch.save(checkpoint, file)
    return checkpoint


def _other_warmup(old: Train, new: Train) -> str:
    before, now = warmup_steps(old), warmup_steps(new)
    kept = with_warmup(new, before)
    return (
        f"the run in this folder took {before} optimizer steps of warmup; with "
        f"train.tokens {new.tokens:,} its schedule, in shares of the run, would have taken {now}; "
        + (
            f"to keep its warmup, add --set 'train.schedule={schedule_text(kept)}'"
            if kept
            else "choose another folder with --out, to train from the start"
        )
    )


def _other_switch(old: Spec, new: Spec) -> str:
    before, now = switches(old), switches(new)
    place = next(each for each in before | now if before.get(each) != now.get(each))
    when = [" and ".join(map(str, each.get(place, ()))) or "none" for each in (before, now)]
    return (
        f"the number of steps of {place} changes at optimizer step {when[0]} of the run in this folder, with "
        f"these settings at {when[1]}; choose another folder with --out, to train from the start"
    )


def _too_far(old: Train, new: Train, last: int, stable: int | None) -> str:
    def at(step: int) -> str:
        return f"step {step:,} ({step * old.tokens_per_step:,} tokens)"

    message = (
        f"the run in this folder is at {at(last)}, but with these settings its decay begins at "
        f"{at(decay_start(new))}, "
    )
    if stable is not None:
        message += f"and the state saved for longer runs is from {at(stable)}"
    else:
        message += f"and no state from before its own decay, at {at(decay_start(old))}, was saved"
    return f"{message}; choose another folder with --out, to train from the start"
