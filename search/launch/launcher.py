"""The interface of a launcher: a file of `launchers/` or an entry point of `composer.launchers`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import EntryPoint
from importlib.util import find_spec
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from blocks.base.entry_points import entry_points_by_name
from composer.language.schema.spec import Spec
from search.errors import SearchError
from search.run.crew import Plan


@dataclass(frozen=True)
class Need:
    """The work that workers are started for.

    Attributes:
        runs: returns how many runs are left at most.
        sample: returns specs like those that will be trained, and the bytes that training one may take.
    """

    runs: Callable[[], float]
    sample: Callable[[], tuple[list[Spec], int]]


class Options(BaseModel):
    """The options of a launcher, set by `--launch KEY=VALUE`; by default none."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True)
class Launcher:
    """A launcher that `--launcher` can name.

    Attributes:
        meaning: a short description for the docs.
        plan: plans the workers for a need, a number of workers (None for the default) and its options.

            Raises:
                SearchError: there can be no such workers.
        options: the model of its options; the docstring of each field is its description.
        needs: a module that has to be importable, if any.
        install: what pip installs to provide it.
    """

    meaning: str
    plan: Callable[[Need, int | None, Any], Plan]
    options: type[Options] = Options
    needs: str = ""
    install: str = ""

    @property
    def missing(self) -> bool:
        """Whether a module that it needs is not installed."""
        return bool(self.needs) and find_spec(self.needs) is None


@dataclass(frozen=True)
class Asked:
    """The launcher that a command line names, and its options as text."""

    name: str = "local"
    options: Mapping[str, str] = field(default_factory=dict)

    def plan(self, need: Need, workers: int | None) -> Plan:
        """Plan the workers.

        Raises:
            SearchError: there is no such launcher or option, or there can be no such workers.
        """
        launcher, options = self.checked()
        return launcher.plan(need, workers, options)

    def checked(self) -> tuple[Launcher, Options]:
        """Return the launcher and its options.

        Raises:
            SearchError: there is no such launcher or option, or a package is not installed.
        """
        launcher = find_launcher(self.name)
        try:
            options = launcher.options.model_validate(dict(self.options))
        except ValidationError as error:
            raise SearchError(
                "\n".join(_problem(self.name, launcher, each) for each in error.errors())
            ) from None
        if launcher.missing:
            raise SearchError(
                f"--launcher {self.name}: needs {launcher.needs}, which is not installed: "
                f"pip install {launcher.install}"
            )
        return launcher, options


@cache
def launchers() -> Mapping[str, EntryPoint]:
    """Map the name of each launcher to its entry point, of the group `composer.launchers`."""
    return entry_points_by_name("composer.launchers", "LAUNCHER")


def find_launcher(name: str) -> Launcher:
    """Return the launcher of a name.

    Raises:
        SearchError: there is none, or the object registered under that name is no `Launcher`.
    """
    if name not in launchers():
        raise SearchError(f"--launcher: expected one of {', '.join(launchers())}, got {name!r}")
    point = launchers()[name]
    launcher = point.load()
    if not isinstance(launcher, Launcher):
        raise SearchError(f"{point.value} ({point.group}): expected a Launcher, got {launcher!r}")
    return launcher


def asked(name: str, address: str | None, settings: list[str] | None) -> Asked:
    """Read `--launcher`, `--address` and `--launch KEY=VALUE`.

    Raises:
        SearchError: a setting is no `KEY=VALUE`.
    """
    options = {} if address is None else {"address": address}
    for setting in settings or ():
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise SearchError(f"--launch: expected KEY=VALUE, got {setting!r}")
        options[key] = value
    return Asked(name, options)


_EXPECTED = {
    "float_parsing": "a number",
    "greater_than": "a number above {gt:g}",
    "greater_than_equal": "a number of at least {ge:g}",
    "int_parsing": "a whole number",
    "literal_error": "{expected}",
    "value_error": "{error}",
}
"""The expected value, by pydantic's error type."""


def _problem(name: str, launcher: Launcher, error: Any) -> str:
    key = ".".join(map(str, error["loc"]))
    option = "--address" if key == "address" else f"--launch {key}"
    if error["type"] == "extra_forbidden":
        known = ", ".join(launcher.options.model_fields)
        has = f"its options are {known}" if known else "it has no options"
        return f"{option}: the launcher {name} has no option {key}; {has}"
    expected = _EXPECTED.get(error["type"], "").format(**error.get("ctx", {}))
    said = f"expected {expected}" if expected else error["msg"]
    return f"{option}: {said}, got {error['input']!r}"
