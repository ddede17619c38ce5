"""CPU time of commands as processes, against importing the packages that every one of them needs."""

import os
import subprocess
import sys
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from statistics import median

import pytest

ROOT = Path(__file__).parents[2]
ROUNDS = 15
BASE = ["-c", "import pydantic, networkx, yaml, typer"]
COMMANDS = ("check specs/dreamer-tiny.yaml", "check specs/space.yaml", "--help", "search --help")


def cpu_seconds(arguments):
    """User and system time: other processes on the machine change it less than they change the wall clock."""
    # bytecode is cached, as it is for an installed package
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    env["PYTHONPATH"] = str(ROOT)
    before = getrusage(RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=env, stdout=subprocess.DEVNULL, check=True, timeout=60
    )
    after = getrusage(RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


@pytest.mark.benchmark
@pytest.mark.slow
def test_commands_against_their_imports(capsys):
    """Runs in turns; the goal for `composer check SPEC` is at most 1.5 times the imports, by the minima."""
    processes = {"": BASE, **{line: ["-m", "composer", *line.split()] for line in COMMANDS}}
    for arguments in processes.values():
        cpu_seconds(arguments)
    rounds = [{line: cpu_seconds(each) for line, each in processes.items()} for _ in range(ROUNDS)]
    least, middle = ({line: of(each[line] for each in rounds) for line in processes} for of in (min, median))
    with capsys.disabled():
        for line in COMMANDS:
            times = f"{least[line]:.3f} s, {least[line] / least['']:.2f} x imports"
            print(f"\ncomposer {line}: {times}; by the medians {middle[line] / middle['']:.2f} x")
