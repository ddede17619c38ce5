"""Real training that notes on how many devices it runs, by workers that a launcher starts."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import local_command
from fake_training import toy
from processes import Forked
from worker import records

from composer.training import recorder
from search.trainer import train

TWO_DEVICES = (
    "model.width={choice: [8, 16]}",
    "train.tokens=512",
    "train.batch_tokens=256",
    "train.eval.tokens=256",
    "train.strategy=ddp",
    "train.devices=2",
    "search.rungs=[256]",
    "search.trials=1",
    "search.seeds=0",
)


@dataclass(frozen=True)
class NotedTraining:
    """Appends the number of ranks to a file as each training starts."""

    file: Path

    def __call__(self, *arguments):
        real = recorder.Recorder.on_train_start

        def start(this, trainer, module):
            with self.file.open("a") as file:
                file.write(f"{trainer.world_size}\n")
            real(this, trainer, module)

        with patch.object(recorder.Recorder, "on_train_start", start):
            return train(*arguments)


def check_two_devices(root: Path, *launcher: str) -> None:
    """Search with trials on two devices by a launcher; each trains on two ranks, to its end."""
    toy(root)
    settings = [part for each in TWO_DEVICES for part in ("--set", each)]
    given = ["search", str(root / "space.yaml"), "--out", str(root / "run"), *settings, *launcher]
    paths = os.pathsep.join(filter(None, sys.path))
    environment = {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    command = Forked(local_command.search, NotedTraining(root / "ranks"), given, environment=environment)
    try:
        out, error = command.communicate(240)
    finally:
        command.kill()
    assert command.returncode == 0, out + error
    assert {*(root / "ranks").read_text().split()} == {"2"}
    (trial,) = (record for record in records(root / "run") if record["kind"] == "trial")
    assert trial["status"] == "finished"
    assert [seen["tokens"] for seen in trial["seen"]] == [256, 512]
