"""How long commands take as processes, against importing the packages that every one of them needs."""

import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).parents[2]
ROUNDS = 15
BASE = ["-c", "import pydantic, networkx, yaml, typer"]
COMMANDS = ("check specs/dreamer-tiny.yaml", "check specs/space.yaml", "--help", "search --help")


def seconds(arguments):
    # bytecode is cached, as it is for an installed package
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    env["PYTHONPATH"] = str(ROOT)
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=env, stdout=subprocess.DEVNULL, check=True, timeout=60
    )
    return time.perf_counter() - began


@pytest.mark.benchmark
@pytest.mark.slow
def test_commands_against_their_imports(capsys):
    """The median of the ratios of runs in turns; the goal for `composer check SPEC` is at most 1.5."""
    processes = {"": BASE, **{line: ["-m", "composer", *line.split()] for line in COMMANDS}}
    for arguments in processes.values():
        seconds(arguments)
    rounds = [{line: seconds(arguments) for line, arguments in processes.items()} for _ in range(ROUNDS)]
    with capsys.disabled():
        for line in COMMANDS:
            ratio = median(each[line] / each[""] for each in rounds)
            print(f"\ncomposer {line}: {median(each[line] for each in rounds):.3f} s, {ratio:.2f} x imports")
