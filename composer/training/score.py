"""Scoring a saved model, also at other numbers of recurrent steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from composer.language.description.show import resolved_yaml
from composer.language.load import loads
from composer.language.schema.spec import Spec
from composer.language.schema.steps import Steps, path_of, recurrent_place, with_steps
from composer.module.exits import check_exits
from composer.module.model import ComposedModel
from composer.training.data.datamodule import datamodule
from composer.training.evaluate import autocast, evaluate
from composer.training.folder.build import build
from composer.training.folder.checkpoint import put_weights, read_checkpoint, read_weights, weights_of
from composer.training.folder.data_record import PLACE, located
from composer.training.folder.errors import TrainingError
from composer.training.folder.run_folder import read_spec, weights_file
from composer.training.trainer import device_kind


@dataclass(frozen=True)
class SavedModel:
    """Weights and the spec they were trained with.

    Attributes:
        path: the file of the weights.
    """

    path: Path
    spec: Spec
    weights: dict[str, Tensor]

    @property
    def folder(self) -> Path:
        """The run folder that contains the file, if any."""
        return self.path.parent

    def model(self, spec: Spec | None = None) -> ComposedModel:
        """Return the model of its spec, or of another one, with the weights, on the device that runs use.

        Raises:
            TrainingError: the weights do not fit, or the model is too large.
        """
        model = build(spec or self.spec)
        put_weights(model, self.weights, self.path)
        return model.to(device_kind()).eval()


def read(path: Path, which: Literal["best", "last"] = "best") -> SavedModel:
    """Read a run folder's best or last weights, or one file of weights.

    Raises:
        TrainingError: there are no weights, or they cannot be read.
    """
    if not path.exists():
        raise TrainingError(f"file not found: {path}, expected a run folder or a checkpoint")
    if path.is_dir():
        spec, file = read_spec(path), weights_file(path, which)
        return SavedModel(file, spec, _weights(file)[0])
    weights, text = _weights(path)
    if text is None:
        raise TrainingError(f"{path}: expected a weights file that includes its spec, got weights only")
    return SavedModel(path, loads(text, str(path)), weights)


@dataclass(frozen=True)
class Scored:
    """The scores of saved weights on held-out data.

    Attributes:
        scores: loss, accuracy and the data's other metrics.
        sequences: number of different sequences scored.
        flops: of the forward pass per token, at the full context.
    """

    scores: dict[str, float]
    sequences: int
    flops: int


def score(
    saved: SavedModel,
    overrides: Sequence[str] = (),
    data: str | None = None,
    exit_threshold: float | None = None,
) -> Scored:
    """Score saved weights in the model of their spec with `overrides`, on the run's own data.

    The data are found by content (see `located`), at the path `data` if given. Overrides that name
    another place select other data. `exit_threshold` is that of the model's `forward`.

    Raises:
        SpecError: the overrides do not make a valid spec.
        TrainingError: the weights do not fit it, it has no data, the model is too large, or it has no exits.
        DataError: the data cannot be used.
    """
    spec = loads(resolved_yaml(saved.spec), str(saved.path), overrides)
    if spec.train is None:
        raise TrainingError(f"{saved.path}: expected a spec with a `train` section, whose data to score on")
    if data is not None or not any(map(names_data, overrides)):
        spec = located(spec, saved.folder, data)
    model = saved.model(spec)
    batches = datamodule(spec)
    flops = model.plan.costs.flops_per_token.forward
    try:
        check_exits(model, exit_threshold)
    except ValueError as error:
        raise TrainingError(f"{saved.path}: {error}") from None
    scores = evaluate(model, batches.val_dataloader(), lambda: autocast(model), exit_threshold=exit_threshold)
    return Scored(scores, batches.eval_sequences, flops)


def names_data(override: str) -> bool:
    """Return whether an override says which data to read."""
    return override.partition("=")[0].strip() in ("train", "train.data", *PLACE)


def at_steps(spec: Spec, steps: Steps) -> list[str]:
    """Return the overrides that have recurrent stages run other numbers of steps.

    `steps` is a number for the only recurrent stage, or numbers by place, such as `stages.0`.

    Raises:
        TrainingError: a number does not say which stage, or a place is not that of a recurrent stage.
    """
    try:
        numbers = {recurrent_place(spec): steps} if isinstance(steps, int) else steps
        with_steps(spec, numbers)
    except ValueError as error:
        raise TrainingError(f"{spec.name}: --steps: {error}") from None
    paths = {place: ".".join(map(str, path_of(place))) for place in numbers}
    return [f"{paths[place]}.recur={number}" for place, number in numbers.items()]


def _weights(path: Path) -> tuple[dict[str, Tensor], str | None]:
    if path.suffix == ".safetensors":
        return read_weights(path)
    checkpoint = read_checkpoint(path)
    return weights_of(checkpoint, path), checkpoint["hyper_parameters"]["spec"]
