"""The group of all commands: says in plain words what is wrong with an option's value."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup


class Commands(TyperGroup):
    """A group whose usage errors do not name pydantic's kind of error."""

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        """Run the command that the context names.

        Raises:
            BadParameter: an option or argument has a value that it cannot have.
        """
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            error.message = error.message.removeprefix("Value error, ")
            raise
