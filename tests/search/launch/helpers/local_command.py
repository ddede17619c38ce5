"""`composer search` with training that sleeps, for a process of its own."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial

from fake_training import SlowTraining

from composer.cli.main import main
from search.commands import run_and_report
from search.run.supervise import run_workers


def search(training: SlowTraining, arguments: Sequence[str]) -> None:
    """Run `composer ARGUMENTS`, whose workers train by `training`."""
    run_and_report.run_workers = partial(run_workers, train=training)
    sys.exit(main(arguments))
