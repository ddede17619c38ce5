"""The one place where a search meets training; a study takes any callable of the same shape."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from composer.data.base.errors import DataError
from composer.language.schema.spec import Spec
from composer.settings.errors import SpecError
from search.errors import Crash, SearchError


@dataclass(frozen=True)
class Step:
    """How far a run in progress is: training tokens read, and the training loss of the last step if known."""

    tokens: int
    train_loss: float | None = None


@dataclass(frozen=True)
class Trained:
    """What was measured where a run paused or ended."""

    tokens: int
    metrics: dict[str, float]


class Train(Protocol):
    """Trains a spec in its folder, from where that stands, until `until` tokens or to the end."""

    def __call__(
        self, spec: Spec, folder: Path, until: int | None, report: Callable[[Step], None]
    ) -> Trained:
        """Return what was measured there.

        Raises:
            Crash: this spec cannot be trained.
            SearchError: no spec could be, as things stand.
        """


def train(spec: Spec, folder: Path, until: int | None, report: Callable[[Step], None]) -> Trained:
    """Train for real."""
    from composer.training.folder.errors import TrainingError
    from composer.training.run import run_training

    try:
        result = run_training(
            spec,
            folder,
            until_tokens=until,
            report=lambda progress: report(Step(progress.tokens, progress.train_loss)),
        )
    except TrainingError as error:
        # what the system refuses (a full disk, a folder in use) would be refused to the next one too
        if isinstance(error.__context__, OSError):
            raise SearchError(f"{error}\nrun the same command to resume the search") from None
        raise Crash(str(error)) from None
    except (SpecError, DataError):
        raise
    except Exception as error:
        raise Crash(f"{type(error).__name__}: {error}") from error
    if not math.isfinite(result.metrics["loss"]):
        raise Crash(f"the loss is {result.metrics['loss']} at {result.tokens} tokens")
    return Trained(result.tokens, result.metrics)
