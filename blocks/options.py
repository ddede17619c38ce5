"""The values of a wiring key, each imported when it is first asked for."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from functools import cached_property

import blocks.wiring
from blocks.base.discover import configs_of, module_names
from blocks.base.wiring import WiringConfig, kind_of


class Options(Mapping[str, type[WiringConfig]]):
    """The classes of the values of a key by name, the default first.

    Values in the folder of the key, `blocks/wiring/norm/`, are in a file or folder of their name. So looking
    up a name imports no other value; iterating imports all of them.
    """

    def __init__(self, kind: type[WiringConfig]) -> None:
        """Make the values of the key that `kind` declares."""
        self.kind = kind
        self._known: dict[str, type[WiringConfig]] = {}
        within = kind.__module__.startswith(f"{blocks.wiring.__name__}.")
        self._waiting = module_names(sys.modules[kind.__module__]) if within else set()

    @cached_property
    def default(self) -> WiringConfig:
        """The default value."""
        return self[self.kind.default].model_construct()

    def add(self, option: type[WiringConfig], origin: str) -> None:
        """Add a value; `origin` says where it is from.

        Raises:
            ValueError: its key or its name is taken, or it has fields, but none of its own name.
        """
        self._import(option.name)
        self._put(option, origin)

    def _put(self, option: type[WiringConfig], origin: str) -> None:
        if kind_of(option) is not self.kind:
            raise ValueError(
                f"{origin}: the key {self.kind.key!r} is already taken by {self.kind.__module__}"
            )
        if option.model_fields and option.name not in option.model_fields:
            raise ValueError(f"{origin}: {option.__name__} has fields, but none called {option.name!r}")
        if (other := self._known.setdefault(option.name, option)) is not option:
            raise ValueError(
                f"{origin}: {self.kind.key}: {option.name} is already taken by {other.__module__}"
            )

    def __getitem__(self, name: str) -> type[WiringConfig]:
        self._import(name)
        return self._known[name]

    def __contains__(self, name: object) -> bool:
        self._import(name)
        return name in self._known

    def __iter__(self) -> Iterator[str]:
        for name in sorted(self._waiting):
            self._import(name)
        return iter(sorted(self._known, key=lambda name: (name != self.kind.default, name)))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def _import(self, name: object) -> None:
        """Import the module of the key's folder that is called `name`, once.

        Raises:
            ValueError: it has values, but none of its name.
        """
        if name not in self._waiting:
            return
        module = importlib.import_module(f"{self.kind.__module__}.{name}")
        configs = [each for each in configs_of(module, self.kind) if each.name]
        if configs and name not in {each.name for each in configs}:
            raise ValueError(f"{module.__name__}: expected a value called {name!r}, got {configs[0].name!r}")
        for each in configs:
            self._put(each, module.__name__)
        # last, for other threads that look it up meanwhile
        self._waiting.discard(str(name))
