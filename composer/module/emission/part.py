"""The parts of a step as modules: what sublayers and blocks are named after, hold, and show.

They are called as modules, with hooks, while somebody watches them; otherwise the code of a step runs as one
piece, with operations merged and fused across their borders, and nothing but the names goes by them.
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
    """A module that can be watched by hooks, and shows the tensors that it holds."""

    def extra_repr(self) -> str:
        """Return what it is told to be, then its tensors and their shapes."""
        return "\n".join(line for line in (self._about(), tensors(self)) if line)

    def _about(self) -> str:
        """Return its settings in a line."""
        return ""

    def _watched(self) -> bool:
        """Return whether a hook is registered on it; sharded ones have some that are not the user's."""
        return not getattr(self, "sharded", False) and any(getattr(self, hooks) for hooks in _HOOKS)


class Part(Watchable):
    """A sublayer of a step, a branch of a parallel one, or a block, which has a config."""

    # private, for a block's weights may have any name
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
        """Return its outputs, one or a tuple, from the first input, other values, and the numbers of steps.

        Raises:
            RuntimeError: it is not called by the model around it.
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
    """Return whether a hook is registered on a part of a model, or on all modules there are."""
    if any(getattr(registered, f"_global{hooks}") for hooks in _HOOKS):
        return True
    return any(isinstance(each, Watchable) and each._watched() for each in model.modules())
