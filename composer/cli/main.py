"""The entry point `composer`: its commands, and what ends as which exit code."""

from __future__ import annotations

import atexit
import gc
import os
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    import typer

    from composer.cli.find import Command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 fine, 1 the user's input, 2 usage, 130 interrupted."""
    from composer.cli.terminal.output import outliving_readers, plain_warnings

    with outliving_readers(), plain_warnings():
        code = _ended(sys.argv[1:] if arguments is None else list(arguments))
    # torch reports what it has left if it is not asked to clean up
    if arguments is None and "torch" not in sys.modules and threading.active_count() == 1:
        _end_process(code)
    return code


def _ended(arguments: list[str]) -> int:
    """Run one command; say in words what went wrong."""
    from composer.cli.terminal.guard import foreign_packages

    if warning := foreign_packages():
        print(f"composer: {warning}", file=sys.stderr)
        return 1
    # imports make many objects that stay: collecting among them would take a third of a short command
    gc.disable()
    # torch's threads wait by spinning: beside any other busy process a small model trains 30 times slower
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # pydantic would read the metadata of all installed packages to find its plugins
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    from composer.cli.terminal.faults import report
    from composer.settings.errors import UserError

    try:
        try:
            return _run(arguments)
        finally:
            # here, where a reader that has gone and a full disk are handled
            if sys.stdout is not None:
                sys.stdout.flush()
    except UserError as error:
        report(error)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _end_process(code: int) -> NoReturn:
    """End the process as `sys.exit` does, but without freeing its objects one by one, which takes long."""
    atexit._run_exitfuncs()
    for stream in filter(None, (sys.stdout, sys.stderr)):
        with suppress(OSError):
            stream.flush()
    os._exit(code)


def _run(arguments: list[str]) -> int:
    import typer

    from composer.cli.find import find_commands
    from composer.cli.terminal.commands import Commands
    from composer.cli.terminal.version import composer

    app = typer.Typer(
        cls=Commands,
        help="Compose, cost, train and search depth-recurrent language models from one YAML spec.",
        epilog=(
            "Start with: composer new dreamer --out first.yaml, then composer train first.yaml.\n\n"
            "Exit codes: 0 fine, 1 something in your files, 2 wrong usage, 130 interrupted."
        ),
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
    )
    app.callback()(composer)
    for each in find_commands(arguments):
        _add(app, each)
    try:
        app(arguments, prog_name="composer")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    return 0


def _add(app: typer.Typer, command: Command) -> None:
    """Add a command, or a group of them, to an app."""
    import typer

    if command.function is None:
        group = typer.Typer(help=command.help, no_args_is_help=True, rich_markup_mode="markdown")
        for each in command.commands:
            _add(group, each)
        app.add_typer(group, name=command.name, rich_help_panel=command.panel)
        return
    app.command(
        command.name,
        help=command.help,
        epilog=f"Example: `{command.example}`" if command.example else None,
        rich_help_panel=command.panel,
    )(command.function)
