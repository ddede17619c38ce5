"""Train on two devices many times beside busy processes, to look for a run that hangs; takes minutes.

PYTHONPATH=tests python tests/training/repeat_ranks.py --times 50 --busy 4

Each run saves and evaluates at every optimizer step, which gathers whole weights. One that is not done within
`--seconds` is killed and ends the script with its output and exit code 1.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

from processes import command
from runs import SPEC, TOKENS

SETTINGS = ("train.devices=2", "train.eval.every=1", "train.checkpoint.every=1")


@contextmanager
def busy(count):
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def once(folder, strategy, steps, seconds):
    """Train once; the seconds that took."""
    (folder / "tiny.yaml").write_text(SPEC)
    settings = (*SETTINGS, f"train.strategy={strategy}", f"train.tokens={TOKENS * steps}")
    options = [each for setting in settings for each in ("--set", setting)]
    begin = time.monotonic()
    with command("train", folder / "tiny.yaml", "--out", folder / "run", *options, seconds=seconds) as run:
        code, output = run.ended()
    if code:
        sys.exit(f"ended with {code}:\n{output}")
    return time.monotonic() - begin


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--busy", type=int, default=4, help="busy processes beside")
    parser.add_argument("--strategy", choices=["ddp", "fsdp"], default="fsdp")
    parser.add_argument("--steps", type=int, default=5, help="optimizer steps of each run")
    parser.add_argument("--seconds", type=float, default=300, help="the time limit of each run")
    given = parser.parse_args()
    with busy(given.busy):
        for number in range(1, given.times + 1):
            with tempfile.TemporaryDirectory() as folder:
                took = once(Path(folder), given.strategy, given.steps, given.seconds)
            print(f"{number}/{given.times}: {given.steps} checkpoints in {took:.0f} s", flush=True)


if __name__ == "__main__":
    main()
