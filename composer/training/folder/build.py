"""Building a model, where it fits into memory."""

from __future__ import annotations

from typing import Any

import torch

from composer.costs.base.units import bytes_text
from composer.costs.counting.count import count
from composer.costs.counting.plan import Plan
from composer.graph.passes.choose_kernels import Kernels
from composer.language.schema.spec import Spec
from composer.module.emission.code import TorchCompile
from composer.module.model import ComposedModel
from composer.training.folder.errors import TrainingError

# what torch says of memory in a plain RuntimeError
_WORDS = ("can't allocate memory", "not enough memory", "Storage size calculation overflowed")


def build(
    spec: Spec, kernels: Kernels = "auto", torch_compile: TorchCompile = "auto", plan: Plan | None = None
) -> ComposedModel:
    """Build the model of a spec, by its plan where the caller has it, with fresh weights on the CPU.

    Raises:
        TrainingError: its weights do not fit into memory.
    """
    try:
        return ComposedModel(spec, kernels, torch_compile=torch_compile, plan=plan)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        size = bytes_text(count(spec).train_memory.weights)
        raise TrainingError(
            f"{spec.name}: the weights of {size} do not fit in memory; choose a smaller model"
        ) from None


def is_out_of_memory(error: Any) -> bool:
    """Return whether an error says that memory ran out."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(
        words in str(error) for words in _WORDS
    )
