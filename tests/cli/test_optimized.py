"""`python -OO`, which drops docstrings and assertions, prints the same."""

import json
import subprocess
import sys
from pathlib import Path

from composer.cli.main import main

ROOT = Path(__file__).parents[2]
COMMANDS = [
    ["--help"],
    ["train", "--help"],
    ["schema"],
    ["check", "specs/dreamer-tiny.yaml"],
    ["check", "specs/dreamer-tiny.yaml", "--set", "stages.0.step.1=dept"],
    ["show", "specs/dreamer-tiny.yaml", "--resolved"],
    ["cost", "specs/dreamer-tiny.yaml"],
    ["search", "specs/space.yaml", "--dry-run"],
]
PROGRAM = """
import json, sys
from composer.cli.main import main
for arguments in json.loads(sys.argv[1]):
    print("$", *arguments, main(arguments), flush=True)
"""


def without_docstrings():
    command = [sys.executable, "-OO", "-c", PROGRAM, json.dumps(COMMANDS)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    return done.stdout, done.stderr


def test_every_command_prints_the_same_without_docstrings(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    for arguments in COMMANDS:
        print("$", *arguments, main(arguments), flush=True)
    plain = tuple(capsys.readouterr())
    assert "Traceback" not in plain[1]
    assert plain[0].count("\n$ ") == len(COMMANDS)
    assert without_docstrings() == plain
