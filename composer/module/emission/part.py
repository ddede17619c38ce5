"""The parts of a step as modules: sublayers and blocks, which hold the weights.

They are called as modules while hooks are registered on them. Otherwise the code of a step runs as one piece,
with operations merged and fused across parts, and parts only give weights their names.
"""

from __future__ import annotations

from typing import Any

import torch.nn.modules.module as registered
from torch import nn

from blocks.base.config import BlockConfig
from blocks.ir.graph import Graph
from composer.module.emission.code import Code, without_code
from composer.module.emission.lookup import gather

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class Watchable(nn.Module):
    """A module that is called if hooks are registered, and whose repr lists its tensors."""

    def extra_repr(self) -> str:
        """Return the settings, then the tensors and their shapes."""
        return "\n".join(line for line in (self._about(), tensors(self)) if line)

    def _about(self) -> str:
        """Return the settings in a line."""
        return ""

    def _watched(self) -> bool:
        """Return whether the user registered a hook on it; FSDP registers some of its own."""
        return not getattr(self, "sharded", False) and any(getattr(self, hooks) for hooks in _HOOKS)


class Part(Watchable):
    """A sublayer of a step, a branch of a parallel sublayer, or a block with its config."""

    # private names, since a block's weights may have any name
    _code: Code | None = None
    _graph: Graph | None = None

    def __init__(self) -> None:
        super().__init__()
        self._config: BlockConfig | None = None
        self._kind = "Part"

    def _get_name(self) -> str:
        return type(self._config).__name__ if self._config else self._kind

    def _about(self) -> str:
        """Return the fields of the block's config that are not at their defaults."""
        fields = self._config.model_dump(exclude={"type"}, exclude_defaults=True) if self._config else {}
        return ", ".join(f"{name}={value}" for name, value in fields.items())

    def __getstate__(self) -> dict[str, Any]:
        state = without_code(super().__getstate__())  # type: ignore[no-untyped-call]
        return {name: value for name, value in state.items() if name != "_graph"}

    def forward(self, *values: Any) -> Any:
        """Return its outputs, one or a tuple, given its inputs and the indices of the loops around it.

        Raises:
            RuntimeError: it was not called by its model.
        """
        if self._code is None or self._graph is None:
            raise RuntimeError(
                f"{self._get_name()}: a part of a model runs only where the model is called; to see what "
                "goes in and out, register a forward hook on it and call the model"
            )
        return self._code(*values, *gather(self, self._graph))


def tensors(module: nn.Module) -> str:
    """Return the parameters and buffers that a module itself holds, with their shapes."""
    held = {**module._parameters, **module._buffers}
    return ", ".join(f"{name}: {[*tensor.shape]}" for name, tensor in held.items() if tensor is not None)


def anyone_watches(model: nn.Module) -> bool:
    """Return whether a hook is registered on a part of a model, or globally on all modules."""
    if any(getattr(registered, f"_global{hooks}") for hooks in _HOOKS):
        return True
    return any(isinstance(each, Watchable) and each._watched() for each in model.modules())
