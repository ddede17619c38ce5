"""Building a model if it fits into memory."""

from __future__ import annotations

from typing import Any

import torch

from composer.costs.base.units import bytes_text
from composer.costs.counting.plan import Plan, as_plan
from composer.graph.passes.choose_kernels import Kernels
from composer.language.schema.spec import Spec
from composer.module.emission.code import TorchCompile
from composer.module.model import ComposedModel
from composer.training.folder.errors import TrainingError

# torch's wording in a plain RuntimeError
_WORDS = ("can't allocate memory", "not enough memory", "Storage size calculation overflowed")


def build(
    spec: Spec | Plan, kernels: Kernels = "auto", torch_compile: TorchCompile = "auto"
) -> ComposedModel:
    """Build the model of a spec with fresh weights, on the CPU.

    Raises:
        TrainingError: its weights do not fit into memory.
    """
    plan = as_plan(spec)
    try:
        return ComposedModel(plan, kernels, torch_compile=torch_compile)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        size = bytes_text(plan.memory.weights)
        raise TrainingError(
            f"{plan.spec.name}: the weights of {size} do not fit in memory; choose a smaller model"
        ) from None


def is_out_of_memory(error: Any) -> bool:
    """Return whether an error says that memory ran out."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(
        words in str(error) for words in _WORDS
    )
