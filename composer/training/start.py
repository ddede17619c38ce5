"""Starting a run, or a model, from the weights of another run: which fit is said in words.

A run folder that was started so has the weights that were taken in `start.safetensors`; without a checkpoint
of its own the run begins from these.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from blocks.ir.walk import weights as weights_of
from composer.costs.counting.plan import Plan
from composer.language.description.show import resolved_yaml
from composer.language.load import loads
from composer.language.schema.spec import Spec
from composer.module.model import ComposedModel
from composer.training.folder.checkpoint import read_weights, save_weights
from composer.training.folder.data_record import located
from composer.training.folder.errors import TrainingError
from composer.training.folder.run_folder import LAST, START, default_folder
from composer.training.score import SavedModel, names_data, read

_SHOWN = 8
"""Most names that a list of weights shows."""


@dataclass(frozen=True)
class Taken:
    """Which weights of a model are those of another run.

    Attributes:
        source: the file they are from.
        taken: names of weights that the model has from there.
        new: names of weights that start as in a fresh model.
        unused: names of weights of the file that the model does not have.
        steps: stages that run another number of steps than in that run: their place, there, here.
    """

    source: Path
    taken: tuple[str, ...]
    new: tuple[str, ...]
    unused: tuple[str, ...]
    steps: tuple[tuple[str, int, int], ...]

    @property
    def text(self) -> str:
        """The same in words, a line for each kind."""
        lines = [f"{self.source}: {len(self.taken)} of {len(self.taken) + len(self.new)} weights taken"]
        lines += [f"  new: {_listed(self.new, (*self.taken, *self.unused))}"] * bool(self.new)
        lines += [f"  not used: {_listed(self.unused, (*self.taken, *self.new))}"] * bool(self.unused)
        lines += [f"  {place} runs {here} steps, {there} there" for place, there, here in self.steps]
        return "\n".join(lines)


def start_from(model: ComposedModel, run: str | Path, weights: Literal["best", "last"] = "best") -> Taken:
    """Load the weights of a run, or of a file of weights, into a model, as far as the model has them.

    The optimizer starts afresh. `weights` are those of `composer.load_run`.

    Raises:
        TrainingError: a weight has another shape there, no name is the same, or there are no such weights.
    """
    saved = read(Path(run), weights)
    comparison = compare(model.plan, saved)
    model.load_state_dict({**model.state_dict(), **{name: saved.weights[name] for name in comparison.taken}})
    return comparison


def compare(plan: Plan, saved: SavedModel) -> Taken:
    """Return which weights of a plan's model can be taken from saved ones.

    Raises:
        TrainingError: a weight has another shape there, or no name is the same.
    """
    spec = plan.spec
    own = {name: weight.shape for name, weight, _ in weights_of(plan.graph) if weight.saved}
    both = [name for name in own if name in saved.weights]
    wrong = [name for name in both if own[name] != saved.weights[name].shape]
    if wrong:
        shapes = [f"{name}: {[*saved.weights[name].shape]} there, {[*own[name]]} here" for name in wrong]
        more = [f"and {len(wrong) - _SHOWN} more"] if len(wrong) > _SHOWN else []
        lines = "\n  ".join([*shapes[:_SHOWN], *more])
        raise TrainingError(f"{saved.path}: these weights do not fit {spec.name}\n  {lines}")
    if not both:
        there = ", ".join([*saved.weights][:3])
        raise TrainingError(f"{saved.path}: none of its weights ({there}, ...) is a weight of {spec.name}")
    return Taken(
        saved.path,
        tuple(both),
        tuple(name for name in own if name not in saved.weights),
        tuple(name for name in saved.weights if name not in own),
        tuple(_other_steps(spec, saved.spec)),
    )


def continued_spec(saved: SavedModel, overrides: Sequence[str]) -> Spec:
    """Return the spec of saved weights with overrides, its data where they are now.

    Raises:
        SpecError: the overrides do not make a valid spec.
        DataError: the data of the run was not found, and no other is named.
    """
    spec = loads(resolved_yaml(saved.spec), str(saved.path), overrides)
    return spec if any(map(names_data, overrides)) else located(spec, saved.folder)


def started_folder(spec: Spec, saved: SavedModel) -> Path:
    """Return the default folder of a run that starts from saved weights."""
    folder = default_folder(spec)
    return folder.with_name(f"{folder.name}-from-{_digest(saved.weights)}")


def begin(folder: Path, spec: Spec, taken: Taken, weights: Mapping[str, Tensor]) -> None:
    """Have a locked run folder start from weights; nothing changes where it did so already.

    Raises:
        TrainingError: its run began from fresh weights, or from others.
    """
    chosen = {name: weights[name] for name in taken.taken}
    path = folder / START
    if path.exists():
        if _digest(read_weights(path)[0]) != _digest(chosen):
            raise TrainingError(
                f"{folder}: the run in this folder began from other weights than those of {taken.source}; "
                "choose another folder with --out"
            )
    elif (folder / LAST).exists():
        raise TrainingError(
            f"{folder}: the run in this folder began from fresh weights; choose another folder with --out"
        )
    else:
        save_weights(path, chosen, resolved_yaml(spec))


def take_start(model: torch.nn.Module, folder: Path) -> None:
    """Load what the run of a folder starts from, if it does not start from fresh weights."""
    if (folder / START).exists():
        model.load_state_dict({**model.state_dict(), **read_weights(folder / START)[0]})


def _other_steps(spec: Spec, before: Spec) -> list[tuple[str, int, int]]:
    stages = zip(before.stages, spec.stages, strict=False)
    return [
        (f"stages.{number}", old.trips, new.trips)
        for number, (old, new) in enumerate(stages)
        if old.tied and new.tied and old.trips != new.trips
    ]


def _listed(names: Sequence[str], others: Sequence[str]) -> str:
    """List names, with one for all below a module where none of `others` is below it."""
    heads: dict[str, int] = {}
    for name in names:
        parts = name.split(".")
        cut = next(n for n in range(1, len(parts) + 1) if not _below(parts[:n], others) or n == len(parts))
        head = ".".join(parts[:cut])
        heads[head] = heads.get(head, 0) + 1
    listed = [head if head in names else f"{head} ({count} weights)" for head, count in heads.items()]
    more = [f"and {len(listed) - _SHOWN} more"] if len(listed) > _SHOWN else []
    return ", ".join([*listed[:_SHOWN], *more])


def _below(parts: Sequence[str], names: Sequence[str]) -> bool:
    head = ".".join(parts)
    return any(name == head or name.startswith(f"{head}.") for name in names)


def _digest(weights: Mapping[str, Tensor]) -> str:
    digest = hashlib.blake2b(digest_size=4)
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
