"""The entry point `composer`: its commands, and what ends as which exit code."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 fine, 1 the user's input, 2 usage, 130 interrupted."""
    from composer.cli.terminal.output import outliving_readers, plain_warnings

    with outliving_readers(), plain_warnings():
        code = _ended(sys.argv[1:] if arguments is None else list(arguments))
        if sys.stdout is not None:
            sys.stdout.flush()
        return code


def _ended(arguments: list[str]) -> int:
    """Run one command; say in words what went wrong."""
    from composer.cli.terminal.guard import foreign_packages

    if told := foreign_packages():
        print(f"composer: {told}", file=sys.stderr)
        return 1
    # start-up makes many objects that stay; collecting among them costs a good part of a short command
    gc.disable()
    # torch's threads wait by spinning: beside any other busy process a small model trains 30 times slower
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from composer.cli.terminal.faults import report
    from composer.costs.time.devices import DeviceError
    from composer.data.base.errors import DataError
    from composer.settings.errors import SpecError
    from composer.training.folder.errors import TrainingError
    from search.errors import SearchError

    try:
        return _run(arguments)
    except (SpecError, DataError, TrainingError, DeviceError, SearchError) as error:
        report(error)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _run(arguments: list[str]) -> int:
    import typer

    from blocks.base.docstrings import docstring
    from composer.cli.commands.arms import arms
    from composer.cli.commands.bench import bench
    from composer.cli.commands.calibrate import calibrate
    from composer.cli.commands.check import check
    from composer.cli.commands.compile import compile
    from composer.cli.commands.conformance import conformance
    from composer.cli.commands.cost import cost
    from composer.cli.commands.diff import diff
    from composer.cli.commands.doctor import doctor
    from composer.cli.commands.draw import draw
    from composer.cli.commands.eval import eval
    from composer.cli.commands.fit import fit
    from composer.cli.commands.match import match
    from composer.cli.commands.schema import schema
    from composer.cli.commands.show import show
    from composer.cli.commands.train import train
    from composer.cli.terminal.version import composer
    from search.commands.report import report
    from search.commands.search import search

    app = typer.Typer(
        help="Compose, cost, train and search depth-recurrent language models from one YAML spec.",
        epilog="Exit codes: 0 fine, 1 something in your files, 2 wrong usage, 130 interrupted.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
    )
    app.callback()(composer)
    examples: dict[Callable[..., None], str] = {
        check: "composer check specs/dreamer-tiny.yaml --set stages.0.recur=4",
        show: "composer show specs/looped.yaml --resolved",
        schema: "composer schema --out specs/composer.schema.json",
        cost: "composer cost specs/dreamer-small.yaml --operations",
        diff: "composer diff specs/dreamer-tiny.yaml specs/recurrent-tiny.yaml",
        calibrate: "composer calibrate",
        draw: "composer draw specs/dreamer-tiny.yaml --out dreamer-tiny.svg",
        fit: "composer fit specs/dreamer-small.yaml --set caps.params=100M",
        match: "composer match specs/recurrent-tiny.yaml --to specs/dreamer-tiny.yaml",
        arms: "composer arms specs/dreamer-small.yaml --out arms",
        compile: "composer compile specs/nested.yaml --code",
        doctor: "composer doctor",
        conformance: "composer conformance my_package.shift_mixing:ShiftMixing",
        bench: "composer bench specs/dreamer-tiny.yaml --rounds 10",
        train: "composer train specs/dreamer-tiny.yaml --set train.lr=2e-3 --out runs/first",
        eval: "composer eval runs/first --steps 4,6,8",
        search: "composer search specs/space.yaml --trials 8",
        report: "composer report runs/space --out report.html",
    }
    for command, example in examples.items():
        # not left to typer: python -OO drops docstrings
        app.command(help=docstring(command), epilog=f"Example: `{example}`")(command)
    try:
        app(arguments, prog_name="composer")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    return 0
