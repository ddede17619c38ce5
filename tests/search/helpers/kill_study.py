"""Kill a study at each of its durable steps in turn, repeat it, and compare with one left alone.

`main` forks, so it belongs in a process of its own; it prints how many steps there are.
"""

import os
import shutil
from pathlib import Path

from fake_training import FakeTraining
from kill_everywhere import Killer
from studies import toy_study

from search.study.rows import Rows, read_rows
from search.study.run import run_study

_add = Rows.add


class StudyKiller(Killer):
    """Counts the rows of a study as well."""

    def __init__(self, at: int) -> None:
        super().__init__(at)
        Rows.add = lambda rows, row: self.add(rows, row)

    def add(self, rows, row) -> bool:
        def tear() -> None:
            # only a part of the line was written
            text = rows.path.read_bytes()
            rows.path.write_bytes(text[: text.rfind(b"\n", 0, -1) + 20])

        return self.step(lambda: _add(rows, row), tear)


def child(study, folder, at=None) -> bool:
    """Run the study in a process of its own; return whether it came to its end."""
    pid = os.fork()
    if pid == 0:
        if at is not None:
            StudyKiller(at)
        run_study(study, folder, folder / "rows.jsonl", FakeTraining())
        os._exit(0)
    return os.waitpid(pid, 0)[1] == 0


def results(folder):
    return sorted(
        (row.cell, row.budget, tuple(row.metrics.items())) for row in read_rows(folder / "rows.jsonl")
    )


def main(root: Path, stride: int) -> None:
    study = toy_study(root, "rates=[1e-3]", "seeds=1")
    assert child(study, root / "whole")
    whole, at = results(root / "whole"), 1
    assert len(whole) == 8
    while not child(study, root / "killed", at):
        assert child(study, root / "killed")
        assert results(root / "killed") == whole, at
        assert len((root / "killed" / "rows.jsonl").read_text().splitlines()) == 8, at
        # nothing was trained twice, except for what had no checkpoint yet
        log = (root / "killed" / "work.log").read_text().splitlines()
        assert len(set(log)) == 8, (at, log)
        assert len(log) <= 9, (at, log)
        shutil.rmtree(root / "killed")
        at += stride
    print(at)
