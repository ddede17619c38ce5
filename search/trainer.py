"""The interface between a search and training; a study takes any callable of the same signature."""

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
    """The progress of a run: training tokens read, and the last step's training loss if known."""

    tokens: int
    train_loss: float | None = None


@dataclass(frozen=True)
class Trained:
    """The metrics of a run where it paused or ended."""

    tokens: int
    metrics: dict[str, float]


class Train(Protocol):
    """Trains a spec in its folder, from its current state, until `until` tokens or to the end."""

    def __call__(
        self, spec: Spec, folder: Path, until: int | None, report: Callable[[Step], None]
    ) -> Trained:
        """Return the metrics at that point.

        Raises:
            Crash: this spec cannot be trained.
            SearchError: no spec can be trained at present.
        """


def train(spec: Spec, folder: Path, until: int | None, report: Callable[[Step], None]) -> Trained:
    """Train with Lightning."""
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
        # a refusal by the system (a full disk, a folder in use) would hit the next run too
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
