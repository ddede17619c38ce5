"""Loggers and callbacks of a run: Lightning's loggers by name, callbacks by import path."""

from __future__ import annotations

import hashlib
import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.loggers import Logger

from composer.training.folder.errors import TrainingError

LOGS = "logs"
"""The folder in a run folder that loggers write to."""


def _csv(folder: Path) -> Logger:
    from lightning.pytorch.loggers import CSVLogger

    return CSVLogger(folder / LOGS, name="csv")


def _tensorboard(folder: Path) -> Logger:
    from lightning.pytorch.loggers import TensorBoardLogger

    return TensorBoardLogger(folder / LOGS, name="tensorboard", version="", default_hp_metric=False)


def _wandb(folder: Path) -> Logger:
    from lightning.pytorch.loggers import WandbLogger

    # the same run each time it resumes
    key = hashlib.blake2b(str(folder.resolve()).encode(), digest_size=8).hexdigest()
    return WandbLogger(folder.name, str(folder / LOGS), id=key, project="composer", resume="allow")


def _mlflow(folder: Path) -> Logger:
    from lightning.pytorch.loggers import MLFlowLogger

    uri = os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{(folder / LOGS).resolve()}/mlflow.db")
    return MLFlowLogger("composer", folder.name, uri)


LOGGERS: Mapping[str, tuple[str, Callable[[Path], Logger]]] = {
    "csv": ("", _csv),
    "tensorboard": ("tensorboard", _tensorboard),
    "wandb": ("wandb", _wandb),
    "mlflow": ("mlflow", _mlflow),
}
"""For each logger its constructor for a run folder, and its package, which is also the name of the extra."""


def check_loggers(names: Sequence[str]) -> None:
    """Check that loggers are known and their packages are installed.

    Raises:
        TrainingError: one is unknown or its package is missing; the message says what to install.
    """
    for name in names:
        if name not in LOGGERS:
            raise TrainingError(f"--logger: expected one of {', '.join(LOGGERS)}, got {name!r}")
        package, _ = LOGGERS[name]
        if package and find_spec(package) is None:
            raise TrainingError(
                f"--logger {name}: expected the package {package}; "
                f"install it with pip install 'attention-composer[{name}]'"
            )


def make_loggers(names: Sequence[str], folder: Path) -> list[Logger]:
    """Return the loggers of a run folder."""
    (folder / LOGS).mkdir(exist_ok=True) if names else None
    return [LOGGERS[name][1](folder) for name in dict.fromkeys(names)]


def make_callbacks(paths: Sequence[str]) -> list[lightning.Callback]:
    """Return the callbacks that `train.callbacks` names.

    A path is `package.module.Name`; modules are looked for as Python does, the current folder included. A
    class or function is called without arguments.

    Raises:
        TrainingError: it cannot be imported, or is not a callback and does not return one.
    """
    return [_callback(path, f"train.callbacks.{number}") for number, path in enumerate(paths)]


def _callback(path: str, place: str) -> lightning.Callback:
    module, _, name = path.replace(":", ".").rpartition(".")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        named: Any = getattr(importlib.import_module(module), name)
        made = named if isinstance(named, lightning.Callback) else named()
    except Exception as error:  # a user's module may fail in any way
        raise TrainingError(
            f"{place}: expected the import path of a callback, such as "
            f"lightning.pytorch.callbacks.LearningRateMonitor, got {path!r} ({type(error).__name__}: {error})"
        ) from None
    if not isinstance(made, lightning.Callback):
        raise TrainingError(f"{place}: expected a lightning.Callback, got {path!r}, {type(made).__name__}")
    return made
