"""Kill an import at each of its durable steps in turn, and go on, with the same import and without it.

`main` forks, so it belongs in a process of its own; it prints how many steps there are.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from pathlib import Path

import optuna
from fake_training import FakeTraining, board, toy
from kill_everywhere import Killer, left_behind

from search.run.importing import bring_in, read_old
from search.run.study import run_search

_link = os.link


def wider(root: Path):
    """The space of the old search with more to choose from."""
    more = [
        "model.width={choice: [16, 24, 32, 64]}",
        "search.trials=2",
        "search.seeds=1",
        "search.finalists=1",
    ]
    return toy(root, *more, baseline="rival.yaml")


def imports(root: Path, at: int) -> int:
    """Import in a child that dies at step `at` (0: never), and search; give its wait status."""
    child = os.fork()
    if child == 0:
        status = 1
        with contextlib.suppress(KeyboardInterrupt):
            killer = Killer(at)

            def link(old, new) -> None:
                if killer.due():
                    os.kill(os.getpid(), signal.SIGKILL)
                _link(old, new)

            os.link = link
            bring_in(wider(root), root / "run", [read_old(root.parent / "old" / "run", root / "run")])
            if at:
                os._exit(0)
            run_search(wider(root), root / "run", FakeTraining())
            status = 0
        os._exit(status)
    return os.waitpid(child, 0)[1]


def main(root: Path, stride: int) -> None:
    """Kill at every `stride`-th step until an import gets through unharmed."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    old, alone, killed = root / "old", root / "alone", root / "killed"
    old.mkdir()
    alone.mkdir()
    run_search(toy(old, "search.trials=4", baseline="rival.yaml"), old / "run", FakeTraining())
    assert imports(alone, 0) == 0
    expected = left_behind(alone, None)
    folders = sorted(path.name for path in (alone / "run" / "imported").iterdir())
    assert folders == ["0", "1", "2", "3", "rival"]
    for at in range(1, 10_000, stride):
        shutil.rmtree(killed, ignore_errors=True)
        killed.mkdir()
        first = imports(killed, at)
        if first == 0:
            print(at - stride, "steps")
            return
        assert first == signal.SIGKILL, f"step {at}: ended with {first}"
        without = root / "without"
        shutil.rmtree(without, ignore_errors=True)
        shutil.copytree(killed, without)
        assert imports(killed, 0) == 0, f"step {at}: the second start ended badly"
        left = left_behind(killed, None)
        for what, value in expected.items():
            assert left[what] == value, f"step {at}: {what}\n{left[what]}\n{value}"
        assert sorted(path.name for path in (killed / "run" / "imported").iterdir()) == folders
        # who does not import again finds nothing in the way, and may still do it later
        run_search(wider(without), without / "run", FakeTraining())
        assert imports(without, 0) == 0, f"step {at}: the import after the search ended badly"
        rows = board(without / "run")
        assert not [row for row in rows if row["status"] == "crashed"]
        assert len([row for row in rows if row["folder"].startswith("trials/")]) == 2
