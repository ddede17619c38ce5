"""Checkpoints: written atomically, read without unpickling anything but tensors and plain containers."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor

from composer.settings.errors import os_message
from composer.training.folder.errors import TrainingError
from composer.training.folder.files import replacing

SHARDS = "shards"
"""The key, in a checkpoint, of the folder beside it that has its weights and optimizer states in parts."""


class WholeCheckpoints(TorchCheckpointIO):
    """Lightning's checkpoints, each written under another name and renamed."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Save `checkpoint` to `path` atomically."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with replacing(Path(path)) as file:
            torch.save(checkpoint, file)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU, its tensors mapped from the file.

    Raises:
        TrainingError: it cannot be read, holds anything but tensors and plain containers, or is not that
            of a composed model.
    """
    if not path.exists():
        raise TrainingError(f"file not found: {path}")
    try:
        whole = zipfile.is_zipfile(path)
        content: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=True) if whole else None
    except OSError as error:
        raise TrainingError(os_message(error, path)) from None
    except Exception:  # a damaged pickle may fail in any way, and torch's advice is to trust the file
        raise _refused(path, "a damaged one or one with other objects than tensors") from None
    if not whole and path.suffix in (".yaml", ".yml"):
        raise TrainingError(
            f"{path}: expected a run folder or a checkpoint in one, got a spec; train it first"
        )
    if not whole:
        raise _refused(path, "a file that is cut short or of another kind")
    if fault := _fault(content):
        raise _refused(path, fault)
    checkpoint: dict[str, Any] = content
    return checkpoint


def weights_of(checkpoint: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """Return all weights of a checkpoint that was read from a file; those in parts are read from beside it.

    Raises:
        TrainingError: the parts are gone, or cannot be read.
    """
    if SHARDS not in checkpoint:
        weights: dict[str, Tensor] = checkpoint["state_dict"]
        return weights
    from torch.distributed.checkpoint.api import CheckpointException

    from composer.training.folder.parts import read_parts

    shards = there(path.parent / checkpoint[SHARDS])
    try:
        return read_parts(shards, "state_dict")
    except (OSError, UnpicklingError, EOFError, RuntimeError, CheckpointException) as error:
        raise TrainingError(f"{shards}: these parts of a checkpoint cannot be read ({error})") from None


def there(shards: Path) -> Path:
    """Return the folder of the parts of a checkpoint.

    Raises:
        TrainingError: it is gone.
    """
    if not shards.is_dir():
        raise TrainingError(f"{shards}: the parts of this checkpoint are missing")
    return shards


def _refused(path: Path, got: str) -> TrainingError:
    return TrainingError(
        f"{path}: this checkpoint cannot be read: expected a checkpoint of composer, got {got}"
    )


def _fault(checkpoint: Any) -> str | None:
    """Return why the content of a file is not a checkpoint of a composed model, or ""."""
    match checkpoint:
        case {"state_dict": dict(weights), "hyper_parameters": {"spec": str()}}:
            wrong = [
                n for n, weight in weights.items() if not (isinstance(n, str) and torch.is_tensor(weight))
            ]
            return f"{wrong[0]!r} in its `state_dict`, which is no tensor with a name" if wrong else None
        case {"state_dict": dict()}:
            return "one without the text of a spec in its `hyper_parameters`"
    return "one without a `state_dict` of weights"


def save_weights(path: Path, weights: Mapping[str, Tensor], spec: str) -> None:
    """Save weights as safetensors, with the text of their resolved spec as metadata."""
    from safetensors.torch import save

    data = save({name: weight.contiguous() for name, weight in weights.items()}, {"spec": spec})
    with replacing(path) as file:
        file.write(data)


def read_weights(path: Path) -> tuple[dict[str, Tensor], str | None]:
    """Read safetensors: the weights by name, and the text of their spec if they hold it.

    Raises:
        TrainingError: the file cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            names, about = list(file.keys()), file.metadata() or {}
            return {name: file.get_tensor(name) for name in names}, about.get("spec")
    except (SafetensorError, OSError) as error:
        raise TrainingError(f"{path}: these weights cannot be read ({error})") from None


def put_weights(model: torch.nn.Module, weights: Mapping[str, Tensor], source: Path) -> None:
    """Load weights into a model: exactly its own, with the same shapes.

    Raises:
        TrainingError: they belong to another model.
    """
    own = model.state_dict()
    wrong = [f"{name}: the model has it, the file does not" for name in own.keys() - weights.keys()]
    wrong += [f"{name}: the file has it, the model does not" for name in weights.keys() - own.keys()]
    wrong += [
        f"{name}: {list(weights[name].shape)} in the file, {list(tensor.shape)} in the model"
        for name, tensor in own.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    if wrong:
        faults = "\n  ".join(sorted(wrong)[:5]) + (f"\n  and {len(wrong) - 5} more" if len(wrong) > 5 else "")
        raise TrainingError(f"{source}: these weights do not fit the model\n  {faults}")
    model.load_state_dict(dict(weights))
