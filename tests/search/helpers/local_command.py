"""`composer search` with training that sleeps: `local_command.py SECONDS HOLD ARGUMENT..`, a process."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from fake_training import SlowTraining

from composer.cli.main import main
from search.commands import run_and_report
from search.run.supervise import run_workers

if __name__ == "__main__":
    training = SlowTraining(float(sys.argv[1]), Path(sys.argv[2]))
    run_and_report.run_workers = partial(
        run_workers, train=SlowTraining(float(sys.argv[1]), Path(sys.argv[2]))
    )
    sys.exit(main(["search", *sys.argv[3:]]))
